"""What a model remembers while it writes: the keys and values of every token so far, per layer and row.

Logically (B, T, G, D) for keys and for values; stored (B, 2 G, T, D), because one head's keys then lie side by side,
which is what the product with a query reads. It grows in steps of 256 tokens. Rows may have different lengths. Lengths
are kept twice: as Python numbers, so that no step waits for the device, and as a tensor, which the attention of ragged
rows reads.

Legend: L layers, B rows, G key/value heads, D channels of a head, T tokens.
"""

import torch
from torch import Tensor

STEP = 256  # tokens a cache grows by: one allocation every 256 tokens, at most 255 of them unused


class CacheError(ValueError):
    """Tokens do not fit into a cache as they come: one sentence."""


class KVCache:
    """Keys and values of up to `capacity` tokens in B rows, and the two things beside them that a step needs.

    A step is: `positions_of`, then `begin`, then `write` and `lens_to_attend` for each layer, then `end`.
    """

    def __init__(
        self, n_layer: int, rows: int, n_kv_head: int, head_dim: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.shape = (n_layer, rows, n_kv_head, head_dim)
        # Keys and values lie in one tensor (L, B, 2 G, T, D), keys first: a decoded token writes both in one call.
        self._keep(torch.empty((n_layer, rows, 2 * n_kv_head, 0, head_dim), dtype=dtype, device=device))
        self.lengths = [0] * rows  # tokens held by each row
        self.ragged = False  # whether rows differ in length
        self.lens_after = torch.zeros(rows, dtype=torch.int64, device=device)  # lengths, this step's tokens included
        self.last_vector: Tensor | None = None  # (B, 1, C): the unsmeared embedding of the last token
        self.last_ids: Tensor | None = None  # (B, 1): the last token

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths)

    @property
    def length(self) -> int:
        """The one length that all rows have."""
        if self.ragged:
            raise CacheError(f"rows of this cache hold {self.lengths} tokens; several tokens at once need one length")
        return self.lengths[0]

    @property
    def lens_to_attend(self) -> Tensor | int:
        """Keys that this step's queries see, its own included: one number where all rows agree, else (B,)."""
        return self.lens_after if self.ragged else self.lengths[0] + 1

    @property
    def capacity(self) -> int:
        """Tokens that fit before it grows."""
        return self.memory.size(3)

    def begin(self, count: int) -> None:
        """Make room for `count` more tokens in every row."""
        needed = self.longest + count
        if needed > self.capacity:
            self._keep(_grow(self.memory, -(-needed // STEP) * STEP))
        self.lens_after = self.lens_after + count
        if self.ragged:  # where each row writes, for every layer of this step
            self._rows = torch.arange(len(self.lengths), device=self.lens_after.device)
            self._last = self.lens_after - 1

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, count, G, D) behind each row; return all keys and values as (B, capacity, G, D) views."""
        start = self.length
        rows = self._layers[layer][:, :, start : start + k.size(1)]  # (B, 2 G, count, D)
        rows.copy_(torch.cat((k, v), dim=2).transpose(1, 2))
        return self._views[layer]

    def write_token(self, layer: int, kv: Tensor) -> tuple[Tensor, Tensor]:
        """`write` for one token a row, its keys and values side by side: kv (B, 2 G, D)."""
        if self.ragged:
            self._layers[layer][self._rows, :, self._last] = kv
        else:
            self._layers[layer].select(2, self.lengths[0]).copy_(kv)
        return self._views[layer]

    def keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """One layer's memory, each (B, capacity, G, D), for an operation that writes a token at `place` itself."""
        return self._views[layer]

    @property
    def place(self) -> Tensor | int:
        """Where this step's token goes: one number where all rows agree, else (B,)."""
        return self._last if self.ragged else self.lengths[0]

    def end(self, count: int, ids: Tensor) -> None:
        """The step is done: the new tokens now count. ids: (B, count)."""
        self.lengths = [length + count for length in self.lengths]
        self.last_ids = ids[:, -1:]

    def rewind(self, length: int, last_ids: Tensor, last_vector: Tensor | None) -> None:
        """Hold the first `length` tokens of every row and no more; what lies beyond is written over.

        last_ids: (B, 1), the last of these tokens. last_vector: (B, 1, C), its unsmeared embedding; None where the
        model has no smear. Works after a step that was cut short, too. Raises CacheError where a row is not as long.
        """
        if not 1 <= length <= min(self.lengths):
            raise CacheError(f"rows of this cache hold {self.lengths} tokens; rewind to 1 to {min(self.lengths)}")
        self.lengths, self.ragged = [length] * len(self.lengths), False
        self.lens_after = torch.full_like(self.lens_after, length)
        self.last_ids, self.last_vector = last_ids, last_vector

    def positions_of(self, tables: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
        """The rows of the rotary tables (1, T, 1, D/2) for the next `count` tokens; (B, 1, 1, D/2) where ragged."""
        if not self.ragged or count > 1:
            start = self.length
            return tables[0][:, start : start + count], tables[1][:, start : start + count]
        return tables[0][0, self.lens_after].unsqueeze(1), tables[1][0, self.lens_after].unsqueeze(1)

    def _keep(self, memory: Tensor) -> None:
        """Use this memory, and make its views once: a step that made them for each layer would spend 20 us on it."""
        self.memory = memory
        self._layers = memory.unbind(0)  # per layer (B, 2 G, T, D)
        halves = (layer.transpose(1, 2).split(self.shape[2], dim=2) for layer in self._layers)
        self._views = [(keys, values) for keys, values in halves]  # per layer, each (B, T, G, D)

    def select(self, rows: list[int]) -> "KVCache":
        """A cache of these rows, in this order; a row may be named several times."""
        index = torch.tensor(rows, device=self.memory.device)
        vector = None if self.last_vector is None else self.last_vector[index]
        ids = None if self.last_ids is None else self.last_ids[index]
        lengths = [self.lengths[row] for row in rows]
        return self._with(self.memory[:, index], lengths, self.lens_after[index], vector, ids)

    @staticmethod
    def join(caches: "list[KVCache]") -> "KVCache":
        """One cache of all rows of several, each row at its own length."""
        capacity = max(cache.capacity for cache in caches)
        memory = torch.cat([_grow(cache.memory, capacity) for cache in caches], dim=1)
        vectors = [cache.last_vector for cache in caches if cache.last_vector is not None]
        ids = [cache.last_ids for cache in caches if cache.last_ids is not None]
        return caches[0]._with(
            memory,
            [length for cache in caches for length in cache.lengths],
            torch.cat([cache.lens_after for cache in caches]),
            torch.cat(vectors) if vectors else None,
            torch.cat(ids) if ids else None,
        )

    def _with(
        self, memory: Tensor, lengths: list[int], lens: Tensor, last_vector: Tensor | None, last_ids: Tensor | None
    ) -> "KVCache":
        """A cache of the same model around other rows."""
        n_layer, _, n_kv_head, head_dim = self.shape
        other = KVCache(n_layer, len(lengths), n_kv_head, head_dim, dtype=memory.dtype, device=memory.device)
        other._keep(memory)
        other.lengths, other.lens_after = lengths, lens
        other.ragged = len(set(lengths)) > 1
        other.last_vector, other.last_ids = last_vector, last_ids
        return other


def _grow(memory: Tensor, capacity: int) -> Tensor:
    """The same contents (L, B, 2 G, T, D) with room for `capacity` tokens; the new room is not initialised."""
    grown = memory.new_empty((*memory.shape[:3], capacity, memory.size(4)))
    grown[:, :, :, : memory.size(3)] = memory
    return grown
