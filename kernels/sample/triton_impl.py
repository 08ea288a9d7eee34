"""Sampling in two Triton kernels: parts of a row side by side, then one program that chooses. No sort, no sync.

    parts   (triton_impl_parts.py)   reads every logit once; without filters it draws as well
    choice  (triton_impl_choice.py)  adds the parts up, finds the threshold, chooses token, log-probability, count

Launches and grids follow from shapes and from parameters given as numbers; values in tensors are read by the kernels
alone, so a CUDA graph may replay a draw with other contents.

B batch, V vocabulary.
"""

import functools
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels import configs
from kernels.sample.reference import COLDEST, SampleResult
from kernels.sample.triton_impl_choice import choice
from kernels.sample.triton_impl_parts import FILTERED, FLOATS, GREEDY, INTS, PLAIN, parts

OP = "sample"
LEAST_CAP = 16  # slots of a part's list
# In the interpreter: small, so that tests see many parts and lists that do not reach.
INTERPRETED = {"BLOCK": 64, "LIST": 128, "ROW": 64, "num_warps": 4, "choice_warps": 4, "num_stages": 1}


class Given(NamedTuple):
    """A parameter as the kernels take it: the number, or the tensor (B,) in whose place the number is ignored."""

    number: Any
    rows: Tensor | None


def sample(
    logits: Tensor,
    temperature: Given,
    top_k: Given,
    top_p: Given,
    min_p: Given,
    seed: Given,
    step: Given,
    softcap: float,
) -> SampleResult:
    """One token per row of logits (B, V); parameters as in `kernels.sample`, off as 0 (top_p: 1)."""
    values = _values(logits.device, configuration_key(logits.dtype, logits.shape[1]))
    return launch(logits, temperature, top_k, top_p, min_p, seed, step, softcap, values)


def launch(
    logits: Tensor,
    temperature: Given,
    top_k: Given,
    top_p: Given,
    min_p: Given,
    seed: Given,
    step: Given,
    softcap: float,
    values: configs.Values,
) -> SampleResult:
    """`sample` with a configuration: BLOCK logits a part, LIST slots a row, ROW logits a round, warps of both."""
    B, V = logits.shape
    device = logits.device
    result = SampleResult(
        torch.empty(B, dtype=torch.int64, device=device),
        torch.empty(B, dtype=torch.float32, device=device),
        torch.empty(B, dtype=torch.int64, device=device),
    )
    if B == 0:
        return result
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    has_k = top_k.rows is not None or 0 < top_k.number < V
    has_p = top_p.rows is not None or top_p.number < 1
    has_m = min_p.rows is not None or min_p.number > 0
    if temperature.rows is None and temperature.number < COLDEST:
        mode = GREEDY.value
    else:
        mode = FILTERED.value if has_k or has_p or has_m else PLAIN.value
    cut = cuts(V, values)
    floats = torch.empty((B, FLOATS.value, cut["SPLITS"]), dtype=torch.float32, device=device)
    ints = torch.empty((B, INTS.value, cut["SPLITS"]), dtype=torch.int32, device=device)
    keys, scores, tokens = ints, floats, ints
    if mode == FILTERED.value:
        slots = (B, cut["SPLITS"] * cut["CAP"])
        keys, tokens = torch.empty((2, *slots), dtype=torch.int32, device=device)
        scores = torch.empty(slots, dtype=torch.float32, device=device)
    # A part's list should hold the k largest of its row even if they all lie in it; without k, half a list is the aim.
    need = max(1, cut["CAP"] // 2)
    if top_k.rows is None and has_k:
        need = min(need, top_k.number)
    seed_words = (*_signed_halves(seed.number), logits if seed.rows is None else seed.rows)
    step_words = (*_signed_halves(step.number), logits if step.rows is None else step.rows)
    warmth = (float(temperature.number), logits if temperature.rows is None else temperature.rows)
    p_words = _signed_halves(struct.unpack("<q", struct.pack("<d", top_p.number))[0])
    log_min_p = math.log(min_p.number) if min_p.number > 0 else -math.inf
    shared: dict[str, Any] = {
        "V": V,
        "SPLITS": cut["SPLITS"],
        "CAP": cut["CAP"],
        "MODE": mode,
        "SOFTCAP": softcap > 0,
        "ROW_T": temperature.rows is not None,
        "ROW_SEED": seed.rows is not None,
        "ROW_STEP": step.rows is not None,
    }
    with torch.cuda.device_of(logits):
        parts[(B * cut["SPLITS"],)](
            logits, logits.stride(0), floats, ints, keys, scores, tokens,
            *warmth, *seed_words, *step_words, float(softcap), need,
            BLOCK=cut["BLOCK"], num_warps=values["num_warps"], num_stages=1, **shared,
        )  # fmt: skip
        choice[(B,)](
            logits, logits.stride(0), floats, ints, keys, scores, tokens, *result,
            *warmth, top_k.number, logits if top_k.rows is None else top_k.rows,
            *p_words, logits if top_p.rows is None else top_p.rows,
            log_min_p, logits if min_p.rows is None else min_p.rows,
            *seed_words, *step_words, float(softcap),
            ALL_SPLITS=cut["ALL_SPLITS"], LIST=cut["LIST"], ROW=cut["ROW"], FRACTION=61 - V.bit_length(),
            HAS_K=has_k, HAS_P=has_p, HAS_M=has_m, ROW_K=top_k.rows is not None, ROW_P=top_p.rows is not None,
            ROW_M=min_p.rows is not None,
            num_warps=values["choice_warps"] if mode == FILTERED.value else 1, num_stages=1, **shared,
        )  # fmt: skip
    return result


def cuts(V: int, values: configs.Values) -> dict[str, int]:
    """How a row of V logits is cut. From V alone, so a row's draw is the same in every batch."""
    block = min(values["BLOCK"], max(16, triton.next_power_of_2(V)))
    splits = triton.cdiv(V, block)
    all_splits = triton.next_power_of_2(splits)
    cap = min(block, max(LEAST_CAP, values["LIST"] // all_splits))
    return {
        "BLOCK": block,
        "SPLITS": splits,
        "ALL_SPLITS": all_splits,
        "CAP": cap,
        "LIST": all_splits * cap,
        "ROW": min(values["ROW"], max(16, triton.next_power_of_2(V))),
    }


def _signed_halves(number: int) -> tuple[int, int]:
    """The low and the high 32 bits of a 64-bit integer, each as a signed one: a kernel's arguments keep their type."""
    low, high = number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF
    return low - (low >> 31 << 32), high - (high >> 31 << 32)


def configuration_key(dtype: torch.dtype, V: int) -> str:
    """What a configuration depends on: the format and the power of two that the vocabulary fits in."""
    return f"{str(dtype).removeprefix('torch.')} V{triton.next_power_of_2(V)}"


@functools.cache
def _values(device: torch.device, key: str) -> configs.Values:
    """The configuration for this GPU; INTERPRETED on a CPU."""
    if device.type != "cuda":
        return INTERPRETED
    return configs.find(OP, key, torch.cuda.get_device_capability(device), default(key)).values


def default(key: str) -> configs.Values:
    """Eight logits a thread; some 32 parts a row, so that one row alone fills a quarter of a large GPU."""
    vocab = int(key.rpartition("V")[2])
    block = min(8192, max(1024, vocab // 32))
    warps = min(16, block // 256)
    return {"BLOCK": block, "LIST": 4096, "ROW": 4096, "num_warps": warps, "choice_warps": 8, "num_stages": 1}


def compilations() -> Iterator[configs.Compilation]:
    """Both kernels as they are launched for one temperature, for the usual filters, and for everything in tensors."""
    for V, word in ((32768, "bf16"), (65536, "fp32"), (131072, "bf16"), (1024, "fp32")):
        for mode, name in ((GREEDY, "greedy"), (PLAIN, "temperature"), (FILTERED, "filters")):
            yield from _compilations(V, word, mode.value, name, per_row=False)
    yield from _compilations(32768, "fp32", FILTERED.value, "filters", per_row=True)


def _compilations(V: int, word: str, mode: int, name: str, per_row: bool) -> Iterator[configs.Compilation]:
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[word]
    values = default(configuration_key(dtype, V))
    constants: dict[str, Any] = {
        **cuts(V, values),
        "V": V,
        "MODE": mode,
        "SOFTCAP": False,
        "FRACTION": 61 - V.bit_length(),
    }
    constants |= dict.fromkeys(("HAS_K", "HAS_P", "HAS_M"), mode == FILTERED.value)
    constants |= dict.fromkeys(("ROW_T", "ROW_K", "ROW_P", "ROW_M", "ROW_SEED", "ROW_STEP"), per_row)
    constants["SOFTCAP"] = per_row
    types = dict.fromkeys(("logits", "temperatures", "top_ks", "top_ps", "min_ps", "seeds", "steps"), f"*{word}")
    if per_row:
        types |= {"temperatures": "*fp64", "top_ks": "*i64", "top_ps": "*fp64", "min_ps": "*fp64"}
        types |= {"seeds": "*i64", "steps": "*i64"}
    types |= {"floats": "*fp32", "ints": "*i32", "list_key": "*i32", "list_score": "*fp32", "list_token": "*i32"}
    types |= {"out_token": "*i64", "out_logprob": "*fp32", "out_kept": "*i64"}
    types |= dict.fromkeys(("temperature", "softcap", "log_min_p"), "fp32")
    for function, part, warps in (
        (parts, "parts", values["num_warps"]),
        (choice, "choice", values["choice_warps"] if mode == FILTERED.value else 1),
    ):
        signature = {
            argument: "constexpr" if argument in constants else types.get(argument, "i32")
            for argument in function.arg_names
        }
        yield configs.Compilation(
            OP,
            f"{part}, {name}{', all in tensors' if per_row else ''}, V {V}, {word}",
            function,
            signature,
            {argument: value for argument, value in constants.items() if argument in signature},
            warps,
            1,
            divisible=[*(a for a, kind in signature.items() if kind.startswith("*")), "row_stride"],
        )


def tunings() -> Iterator[configs.Tuning]:
    """Parts of a row, slots of the lists and warps, for a draw with top_k and top_p, by format and vocabulary."""
    for dtype in (torch.bfloat16, torch.float32):
        for V in (32768, 65536, 131072):
            candidates = [
                {"BLOCK": block, "LIST": slots, "ROW": 4096, "num_warps": warps, "choice_warps": more, "num_stages": 1}
                for block in (1024, 2048, 4096)
                if V // block <= 64
                for warps in (4, 8)
                for slots in (2048, 4096)
                for more in (4, 8, 16)
            ]
            yield configs.Tuning(OP, configuration_key(dtype, V), candidates, functools.partial(_make, dtype, V))


def _make(dtype: torch.dtype, V: int, device: torch.device) -> Callable[[configs.Values], None]:
    """Eight rows at temperature 0.8 with top_k 50 and top_p 0.9: as many as a chat server draws at once."""
    logits = (torch.randn(8, V, generator=torch.Generator().manual_seed(0)) * 3).to(device, dtype)
    seeds = torch.arange(8, device=device)

    def run(values: configs.Values) -> None:
        launch(
            logits,
            Given(0.8, None),
            Given(50, None),
            Given(0.9, None),
            Given(0.0, None),
            Given(0, seeds),
            Given(7, None),
            0.0,
            values,
        )

    return run
