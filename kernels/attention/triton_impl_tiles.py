# mypy: disable-error-code="no-untyped-def"
"""What the attention kernels share: which tile a program takes, which tiles need a mask, how rows are read and written.

The R = H / G query heads of a kv head stand in one list of rows: row m is query m // R of head m % R. So the heads of
a group share every key that is loaded, and a tile of rows spans 1 / R as many positions.

B batch, Tq queries, Tk keys, H query heads, G kv heads, R heads of a group, D head dim, W window.
"""

import triton
import triton.language as tl


@triton.jit
def place(tiles, heads, section):
    """(head, tile) of this program; head counts the B * G kv heads.

    Sections of heads whose keys fit in the L2 cache together come one after the other. Within one, all heads start
    with tile 0, which has to be the longest, so that the short ones fill the gaps at the end.
    """
    program = tl.program_id(0)
    first = program // (section * tiles) * section
    width = tl.minimum(section, heads - first)
    rest = program % (section * tiles)
    return first + rest % width, rest // width


@triton.jit
def edge_tile(index, full_from, full_to):
    """The index-th tile that is not among the full ones full_from .. full_to - 1."""
    return tl.where(index < full_from, index, index + full_to - full_from)


@triton.jit
def visible(position, key, window, WINDOW: tl.constexpr):
    """Whether the query at a position sees a key."""
    distance = position - key
    seen = distance >= 0
    if WINDOW:
        seen = seen & (distance <= window)
    return seen


@triton.jit
def row_pointers(x, time_stride, head_stride, first, R: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr):
    """Pointers (ROWS, D) to rows first .. first + ROWS - 1 of x, which points at the first head of a group.

    Distances from the tile's first query are small; only the way to that query may need 64 bits.
    """
    rows = first + tl.arange(0, ROWS)
    query = first // R
    near = (rows // R - query) * time_stride + (rows % R) * head_stride
    return x + query.to(tl.int64) * time_stride + near[:, None] + tl.arange(0, D)[None, :]


@triton.jit
def load_rows(
    x, time_stride, head_stride, first, end, R: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, EDGE: tl.constexpr
):
    """Rows first .. first + ROWS - 1, (ROWS, D); with EDGE those from `end` on are zeros and their memory untouched."""
    pointers = row_pointers(x, time_stride, head_stride, first, R, ROWS, D)
    if EDGE:
        return tl.load(pointers, mask=(first + tl.arange(0, ROWS) < end)[:, None], other=0.0)
    return tl.load(pointers)


@triton.jit
def store_rows(x, values, time_stride, head_stride, first, end, R: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr):
    """Write values (ROWS, D) to the rows below `end`, in x's own dtype."""
    pointers = row_pointers(x, time_stride, head_stride, first, R, ROWS, D)
    inside = (first + tl.arange(0, ROWS) < end)[:, None]
    tl.store(pointers, values.to(x.dtype.element_ty), mask=inside)


@triton.jit
def keys_of(first, Tq, Tk, window, R: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr):
    """(first key, number of tiles, full_from, full_to) of the rows first .. first + ROWS - 1.

    Every row sees every key of a full tile, so it needs no mask. The others are edges: the diagonal, and the far end
    of the window.
    """
    oldest = first // R + Tk - Tq  # position of the first row, and below of the last one that exists
    newest = tl.minimum(first + ROWS, Tq * R) - 1
    newest = newest // R + Tk - Tq
    start = tl.full([], 0, tl.int32)
    full_from = start
    if WINDOW:
        start = tl.maximum(oldest - window, 0)
        full_from = (tl.maximum(newest - window - start, 0) + KEYS - 1) // KEYS
    full_to = (oldest + 1 - start) // KEYS
    tiles = (newest - start) // KEYS + 1
    return start, tiles, tl.minimum(full_from, full_to), full_to


@triton.jit
def rows_of(first, Tq, Tk, window, R: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr):
    """(first row, end of rows, number of tiles, full_from, full_to) that see the keys first .. first + KEYS - 1."""
    last = tl.minimum(first + KEYS, Tk) - 1
    start = tl.maximum(first - (Tk - Tq), 0) * R
    end = Tq * R
    all_until = end  # rows that see the first key, and so all of them as far as the window goes
    if WINDOW:
        end = tl.minimum(end, (last + window + 1 - (Tk - Tq)) * R)
        all_until = tl.minimum(end, (first + window + 1 - (Tk - Tq)) * R)
    end = tl.maximum(end, start)
    all_from = tl.maximum(last - (Tk - Tq), 0) * R  # rows that see the last key
    full_from = (tl.maximum(all_from - start, 0) + ROWS - 1) // ROWS
    full_to = tl.maximum(all_until - start, 0) // ROWS
    tiles = (end - start + ROWS - 1) // ROWS
    return start, end, tiles, tl.minimum(full_from, full_to), full_to
