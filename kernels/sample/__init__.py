"""Choose the next token of every row: softcap, temperature, top-k, top-p, min-p and the draw in one operation.

Definition, for one row of logits with token t in 0 .. V-1, in float32:

    x = softcap * tanh(logits / softcap)      where softcap > 0, else the logits
    temperature below 2^-20 (0 included): the token is argmax x, the lowest index on ties, and n_kept is 1. Else
    z = x / temperature, and three filters, each a threshold on z, of which the highest decides:
      top_k   the k-th largest z
      top_p   p_t = exp(z_t - max z) over the tokens that top_k keeps, in order from the largest: the z of the token at
              which their running sum (in float64) first reaches top_p of the whole
      min_p   max z + ln(min_p), that is, a probability of min_p times the largest
    The kept tokens are those with z >= threshold and z > -inf: ties at a threshold are all kept and the kept set does
    not depend on how a sort orders them. The maximum is always among them.
    The token is the argmax over the kept tokens of z + gumbel(seed, step, t), the lowest index on ties.

gumbel is counter-based noise (see philox.py), so a row's draw depends on its own seed, step and logits, and neither on
the other rows of the batch nor on the device. By the Gumbel-max trick the token falls with probability softmax(z)
over the kept set.

logprob is the log-probability of the token under softmax(x): the model's own distribution, without temperature and
filters, so it is comparable between settings.

Contents with a defined result: -inf is never drawn. Where x or z holds +inf, its +inf tokens share the whole mass. A
row with a NaN, a row of nothing but -inf, and, for parameters in tensors on a GPU, a row whose parameter is out of
range give token -1, logprob NaN, n_kept 0.

B batch, V vocabulary. Sources: Gumbel-max: Yellott 1977; top-k: Fan et al. 2018; top-p: Holtzman et al. 2019;
min-p: Nguyen et al. 2024; Philox: Salmon et al. 2011.
"""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from kernels import backend
from kernels.checks import KernelInputError, check_rows, check_tensor
from kernels.sample import reference, torch_impl
from kernels.sample.reference import SampleResult

__all__ = ["SampleResult", "sample"]


def sample(
    logits: Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    seed: int | Tensor = 0,
    step: int | Tensor = 0,
    softcap: float = 0.0,
) -> SampleResult:
    """SampleResult(token (B,) int64, logprob (B,) float32, n_kept (B,) int64) for logits (B, V).

    Every parameter but softcap is one number for all rows or a tensor (B,) with one per row, beside the logits.
    temperature: 0 or more; below 2^-20 the draw is greedy. top_k: None or 0 is off. top_p: in (0, 1], None or 1 is off.
    min_p: in [0, 1], None or 0 is off. seed: any 64 bits; one int gives all rows the same noise, so that equal rows
    draw equal tokens: pass a tensor for independent rows. step: 0 or more, the position of the draw in the row's text.

    Raises KernelInputError (a ValueError) for what does not fit; values of tensors on a GPU are not read.
    """
    check_tensor("sample", "logits", logits, "(B, V)")
    if logits.shape[1] == 0:
        raise KernelInputError("sample: logits have an empty vocabulary (V is 0); there is no token to choose from")
    _check_real("temperature", temperature, logits, 0.0, math.inf, "a finite number of 0 or more; 0 is greedy")
    if top_k is not None:
        _check_integer("top_k", top_k, logits, 0, 2**63, "0 or more; 0 or None turns it off")
    if top_p is not None:
        _check_real("top_p", top_p, logits, 0.0, 1.0, "above 0 and at most 1; 1 or None turns it off", open_low=True)
    if min_p is not None:
        _check_real("min_p", min_p, logits, 0.0, 1.0, "between 0 and 1; 0 or None turns it off")
    _check_integer("seed", seed, logits, -(2**63), 2**64, "any integer of 64 bits")
    _check_integer("step", step, logits, 0, 2**63, "0 or more")
    if not isinstance(softcap, Real) or not 0 <= softcap < math.inf:
        raise KernelInputError(f"sample: softcap is {softcap!r}; it is a finite number, 0 for none")
    name = backend.choose("sample", logits.device, logits.dtype, logits.shape).name
    if name in ("triton", "interpret"):
        return SampleResult(
            *_launch(
                logits.detach(),
                *_given(temperature, 1.0),
                *_given(top_k, 0),
                *_given(top_p, 1.0),
                *_given(min_p, 0.0),
                *_given(seed, 0),
                *_given(step, 0),
                float(softcap),
            )
        )
    implementation = reference if name == "reference" else torch_impl
    return implementation.sample(logits, temperature, top_k, top_p, min_p, seed, step, softcap)


def _given(value: Any, off: float) -> tuple[Any, Tensor | None]:
    """(number, tensor) of a parameter as the operator's schema has it: the tensor counts if there is one."""
    if isinstance(value, Tensor):
        return off, value
    if value is None:
        return off, None
    if type(off) is float:
        return float(value), None
    number = int(value)
    return (number - 2**64 if number >= 2**63 else number), None  # a seed's 64 bits, as int64 holds them


@torch.library.custom_op("nanochat::sample", mutates_args=())
def _launch(
    logits: Tensor,
    temperature: float,
    temperatures: Tensor | None,
    top_k: int,
    top_ks: Tensor | None,
    top_p: float,
    top_ps: Tensor | None,
    min_p: float,
    min_ps: Tensor | None,
    seed: int,
    seeds: Tensor | None,
    step: int,
    steps: Tensor | None,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The Triton kernels as one operator, which torch.compile keeps whole. It has no gradient: a token is no number."""
    impl = backend.triton_impl("sample", "interpret" if logits.device.type == "cpu" else "triton")
    given = impl.Given
    result = impl.sample(
        logits,
        given(temperature, temperatures),
        given(top_k, top_ks),
        given(top_p, top_ps),
        given(min_p, min_ps),
        given(seed, seeds),
        given(step, steps),
        softcap,
    )
    return result.token, result.logprob, result.n_kept


@_launch.register_fake
def _(logits: Tensor, *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    token = logits.new_empty(logits.shape[0], dtype=torch.int64)
    return token, logits.new_empty(logits.shape[0], dtype=torch.float32), torch.empty_like(token)


def _check_real(
    name: str, value: object, logits: Tensor, low: float, high: float, rule: str, open_low: bool = False
) -> None:
    """A number, or floating-point numbers (B,), from low to high; infinity and NaN never pass."""
    if type(value) is float and _within(value, low, high, open_low):
        return  # the usual case, before the abstract types, which take ten times as long to ask
    if isinstance(value, Tensor):
        check_rows("sample", name, value, logits.shape[0], logits.device, floating=True)
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            for number in value.tolist():
                _check_real(name, number, logits, low, high, rule, open_low)
    elif not isinstance(value, Real) or not _within(float(value), low, high, open_low):
        raise KernelInputError(f"sample: {name} is {value!r}; it has to be {rule}")


def _within(number: float, low: float, high: float, open_low: bool) -> bool:
    """Whether the number is finite and from low to high; NaN never is."""
    return low <= number <= high and number < math.inf and not (open_low and number == low)


def _check_integer(name: str, value: object, logits: Tensor, low: int, end: int, rule: str) -> None:
    """An integer, or integers (B,), with low <= value < end."""
    if type(value) is int and low <= value < end:
        return
    if isinstance(value, Tensor):
        check_rows("sample", name, value, logits.shape[0], logits.device, floating=False)
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            for number in value.tolist():
                _check_integer(name, number, logits, low, end, rule)
    elif not isinstance(value, Integral) or not low <= int(value) < end:
        raise KernelInputError(f"sample: {name} is {value!r}; it has to be {rule}")
