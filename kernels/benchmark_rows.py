"""Operations that work row by row, and their peers: sampling, the preparation of queries and keys, head and loss.

B batch, T time, H query heads, G kv heads, D head dim, N rows, C channels, V vocabulary.
"""

import functools
import importlib
import itertools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from kernels import benchmark_logits
from kernels.benchmark_cases import DTYPES, Case
from kernels.benchmark_subjects import (
    PEER,
    Contestant,
    Outputs,
    Subject,
    compiled,
    distance,
    installed,
    own,
    random,
    step_of,
)
from kernels.linear_softcap_cross_entropy import reference as loss_reference
from kernels.linear_softcap_cross_entropy import torch_impl as loss_torch
from kernels.qk_prep import reference as prep_reference
from kernels.qk_prep import torch_impl as prep_torch
from kernels.sample import reference as sample_reference
from kernels.sample import torch_impl as sample_torch

TOP_K, TOP_P = 50, 0.9
SOFTCAP, GAIN = 15.0, 1.2  # nanochat's


def sample(case: Case, device: torch.device) -> Subject:
    """One token a row, at temperature 1, from recorded logits or flat ones."""
    B, V = case.sizes["B"], case.sizes["V"]
    make = benchmark_logits.flat if "flat" in case.kind else benchmark_logits.recorded
    logits = make(B, V).to(device, DTYPES[case.dtype])
    top_k = TOP_K if "top-k" in case.kind else None
    top_p = TOP_P if "top-p" in case.kind else None
    seed = torch.arange(B, device=device)
    # A text asks for one step after the other; a path that keeps noise for the next ones has to find new ones too.
    steps = itertools.count() if device.type == "cpu" else itertools.repeat(0)
    contestants = own(
        case,
        device,
        logits,
        lambda: kernels.sample(logits, 1.0, top_k, top_p, seed=seed, step=next(steps)),
        lambda: sample_torch.sample(logits, 1.0, top_k, top_p, None, seed, next(steps), 0.0),
        lambda: sample_reference.sample(logits, 1.0, top_k, top_p, None, seed, next(steps), 0.0),
    )
    contestants.append(Contestant("torch eager", PEER, lambda: (_eager(logits, top_k, top_p),)))
    whole = torch.compile(_eager) if device.type == "cuda" else None
    more, absent = compiled(device, lambda: lambda: (whole(logits, top_k, top_p),))  # type: ignore[misc]
    if installed("flashinfer") and device.type == "cuda":
        more.append(Contestant("FlashInfer", PEER, _flashinfer(logits, top_k, top_p)))
    else:
        absent.append(("FlashInfer", "it is not installed" if device.type == "cuda" else "it needs a GPU"))
    exact = logits.to(torch.float64).log_softmax(-1)

    def error(outputs: Outputs) -> float | None:
        """In nats, of the log-probability that comes with a token; the peers give none."""
        if len(outputs) < 3:
            return None
        return float((outputs[1] - exact.gather(1, outputs[0][:, None])[:, 0]).abs().max())

    return Subject([*contestants, *more], absent, error)


def _eager(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Sampling as one writes it with PyTorch: a partial or a full sort, and a draw by torch's own generator."""
    if top_k is None and top_p is None:
        return torch.multinomial(logits.softmax(-1), 1)[:, 0]
    if top_k is None:
        values, places = logits.sort(-1, descending=True)
    else:
        values, places = logits.topk(top_k, -1)
    chances = values.softmax(-1)
    if top_p is not None:
        chances = chances.masked_fill(chances.cumsum(-1) - chances >= top_p, 0)
    return places.gather(1, torch.multinomial(chances, 1))[:, 0]


def _flashinfer(logits: Tensor, top_k: int | None, top_p: float | None) -> Callable[[], Outputs]:
    """FlashInfer's samplers from logits, their softmax included."""
    sampling = importlib.import_module("flashinfer.sampling")  # a peer where it is installed, never a dependency

    if top_k is not None and top_p is not None:
        return lambda: (sampling.top_k_top_p_sampling_from_logits(logits, top_k, top_p),)
    if top_k is not None:
        return lambda: (sampling.top_k_sampling_from_probs(logits.softmax(-1), top_k),)
    if top_p is not None:
        return lambda: (sampling.top_p_sampling_from_probs(logits.softmax(-1), top_p),)
    return lambda: (sampling.sampling_from_logits(logits),)


def qk_prep(case: Case, device: torch.device) -> Subject:
    """Rotation, norm and gain of queries and keys."""
    s, dtype = case.sizes, DTYPES[case.dtype]
    B, T, H, G, D = (s[letter] for letter in "BTHGD")
    grad = case.kind == "training"
    q = random(device, dtype, B, T, H, D, grad=grad)
    k = random(device, dtype, B, T, G, D, seed=1, grad=grad)
    angles = torch.arange(T, device=device)[:, None] * 1e-5 ** torch.linspace(0, 1, D // 2, device=device)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    gradient = (random(device, dtype, B, T, H, D, seed=2), random(device, dtype, B, T, G, D, seed=3))

    def timed(forward: Callable[[], Outputs]) -> Callable[[], Outputs]:
        return step_of(case.kind, forward, (q, k), gradient)

    contestants = own(
        case,
        device,
        q,
        timed(lambda: kernels.qk_prep(q, k, cos, sin, GAIN)),
        timed(lambda: prep_torch.qk_prep(q, k, cos, sin, GAIN)),
        timed(lambda: prep_reference.qk_prep(q, k, cos, sin, GAIN)),
    )
    contestants.append(Contestant("torch eager", PEER, timed(lambda: _eager_prep(q, k, cos, sin))))
    whole = torch.compile(_eager_prep) if device.type == "cuda" else None
    more, absent = compiled(device, lambda: timed(lambda: whole(q, k, cos, sin)))  # type: ignore[misc]

    @functools.cache
    def exact() -> Outputs:
        wide = [x.detach().to(torch.float64).requires_grad_(grad) for x in (q, k)]
        tables = cos.to(torch.float64), sin.to(torch.float64)

        def forward() -> Outputs:
            return prep_reference.qk_prep(wide[0], wide[1], *tables, GAIN)

        run = step_of(case.kind, forward, tuple(wide), tuple(x.to(torch.float64) for x in gradient))
        return tuple(x.detach() for x in run())

    return Subject([*contestants, *more], absent, lambda outputs: distance(outputs, exact()))


def _eager_prep(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Outputs:
    """As a model writes it down: rotate, PyTorch's RMS norm, gain, for queries and for keys."""
    cos, sin = cos[:, None], sin[:, None]
    q, k = prep_reference.rotate(q, cos, sin), prep_reference.rotate(k, cos, sin)
    return F.rms_norm(q, q.shape[-1:]) * GAIN, F.rms_norm(k, k.shape[-1:]) * GAIN


def linear_softcap_cross_entropy(case: Case, device: torch.device) -> Subject:
    """The head and its loss, mean over the rows, with the gradients of x and w."""
    s, dtype = case.sizes, DTYPES[case.dtype]
    N, C, V = (s[letter] for letter in "NCV")
    x = random(device, dtype, N, C, grad=True)
    w = (random(device, dtype, V, C, seed=1) * C**-0.5).requires_grad_()
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2)).to(device)
    one = torch.ones((), device=device)

    def timed(forward: Callable[[], Tensor]) -> Callable[[], Outputs]:
        return step_of("training", forward, (x, w), (one,))

    def plainly(x: Tensor, w: Tensor) -> Tensor:
        return loss_reference.losses(x, w, targets, SOFTCAP, -1).mean()

    contestants = own(
        case,
        device,
        x,
        timed(lambda: kernels.linear_softcap_cross_entropy(x, w, targets, SOFTCAP)),
        timed(lambda: loss_torch.linear_softcap_cross_entropy(x, w, targets, SOFTCAP, -1, "mean")),
        timed(lambda: plainly(x, w)),  # all logits in memory: what one writes with PyTorch, too
    )
    whole = torch.compile(plainly) if device.type == "cuda" else None
    more, absent = compiled(device, lambda: timed(lambda: whole(x, w)))  # type: ignore[misc]

    @functools.cache
    def exact() -> Outputs:
        wide = [t.detach().to(torch.float64).requires_grad_() for t in (x, w)]
        run = step_of("training", partial(plainly, *wide), tuple(wide), (one.to(torch.float64),))
        return tuple(t.detach() for t in run())

    return Subject([*contestants, *more], absent, lambda outputs: distance(outputs, exact()))
