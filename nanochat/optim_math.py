"""The arithmetic of an optimizer step, one function an idea: AdamW, and the parts that make up Muon.

Muon's thought: a gradient matrix has a few strong directions and many weak ones, and a step along it learns the strong
ones only. So it takes the momentum and makes every direction equally long, which is to replace U S V^T by U V^T.
Computing that with an SVD is slow; a few products of matrices come close, and run on any hardware. What surrounds this
here: momentum before it, a balance of rows before it, a balance of neurons after it, and a weight decay that asks the
step for its opinion first.

    direction = orthogonal(equilibrated(nesterov(gradient)));  weights -= rate * (normuon(direction) + cautious decay)

Legend: K matrices of one shape, M rows, N columns. All functions work on stacks (K, M, N). Formats: float32, or float64
for a float64 model; bfloat16 only inside the iterations, where asked for.
"""

import torch
from torch import Tensor

# The odd polynomials a x + b x^3 + c x^5 of five Polar Express steps: optimal in turn for singular values from 0.001
# to 1, with a safety margin of 2 %. Source: Amsel et al. 2025 (arXiv 2505.16932), algorithm 1.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# One polynomial for every step, steep at zero; it ends with singular values between 0.7 and 1.2 rather than at 1.
# Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
QUINTIC = (3.4445, -4.7750, 2.0315)

TINY = 1e-6  # norms below this are no direction any more: a gradient of zeros gives a step of zeros, not NaN
# From twice as long as wide, iterating on the small square X X^T is cheaper than on X itself.
GRAM_FROM = 2


def adamw_(
    weights: list[Tensor], grads: list[Tensor], means: list[Tensor], squares: list[Tensor], steps: list[Tensor],
    *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """One AdamW step in place (Loshchilov and Hutter 2019), for all tensors of a group in one pass over memory.

    w <- w (1 - lr decay);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    steps: t of each tensor, a float32 number on its device, this step counted. bfloat16 weights are updated in float32
    and rounded once.
    """
    torch._fused_adamw_(
        weights, grads, means, squares, [], steps, lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay,
        eps=eps, amsgrad=False, maximize=False, grad_scale=None, found_inf=None,
    )  # fmt: skip


def nesterov_(grads: Tensor, momentum_buffer: Tensor, momentum: float) -> Tensor:
    """The average of gradients, and the gradient mixed with it (Nesterov 1983), both in place; returns the mixture."""
    momentum_buffer.lerp_(grads, 1 - momentum)
    return grads.lerp_(momentum_buffer, momentum)


def equilibrated_scale(x: Tensor, margin: float, least: float) -> Tensor:
    """(K, M, 1) factors that give all rows of a matrix one length, and the matrix a norm of 1 / margin.

    Rows of one length make the singular values more alike, and the iteration converges better on those. The norm of a
    matrix (root of the sum of squares) is an upper bound of every singular value, so none is above 1 / margin.
    Source: row equilibration (MuonEq, arXiv 2603.28254).
    """
    rows = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (K, M, 1)
    even = rows.square().mean(dim=-2, keepdim=True).sqrt() / rows.clamp_min(TINY)
    norm = torch.linalg.vector_norm(rows * even, dim=-2, keepdim=True)  # of the matrix, once its rows are even
    return even / (norm * margin + least)


def orthogonal(x: Tensor, polynomials: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Bring all singular values (at most 1) of each matrix near 1: U S V^T becomes nearly U V^T (within 15 %).

    Each step is x <- a x + b (x x^T) x + c (x x^T)^2 x, an odd polynomial of the singular values, from products alone.
    A tall matrix multiplies from the other side, where the square is smaller. A long one (float32 or wider) takes a
    short cut that bfloat16 is too coarse for; see `_by_gram`.
    """
    M, N = x.shape[-2:]
    if max(M, N) >= GRAM_FROM * min(M, N) and x.dtype in (torch.float32, torch.float64):
        for few in (polynomials[:2], polynomials[2:]):  # anew after two, or rounding would pile up in the square
            x = _by_gram(x, few) if few else x
        return x
    for a, b, c in polynomials:
        gram = x.mT @ x if M > N else x @ x.mT
        square = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, square, beta=a) if M > N else torch.baddbmm(x, square, x, beta=a)
    return x


def _by_gram(x: Tensor, polynomials: tuple[tuple[float, float, float], ...]) -> Tensor:
    """The steps of `orthogonal` on the small square G = x x^T, and then one product with x.

    x_next = P x with P = a + b G + c G^2, so G_next = P G P, and all of these commute. For a matrix four times as
    long as wide this takes 30-40 % less time than the plain way, and loses no accuracy in float32 (see the tests).
    """
    tall = x.size(-2) > x.size(-1)
    gram = x.mT @ x if tall else x @ x.mT
    product: Tensor | None = None
    for i, (a, b, c) in enumerate(polynomials):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if i + 1 < len(polynomials):
            gram = factor @ gram @ factor
    assert product is not None
    return x @ product if tall else product @ x


def orthogonal_before(x: Tensor, polynomials: tuple[tuple[float, float, float], ...], kind: str) -> Tensor:
    """`orthogonal` as the older kinds wrote it, every product and sum rounded on its own.

    In float32 this is the same. In bfloat16, which they worked in, a step of those days is recognised by the order of
    its roundings, and a run that is continued should notice nothing.
    """
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall and kind == "muon-2025" else x
    other_side = tall and kind != "muon-2025"
    for a, b, c in polynomials:
        gram = x.mT @ x if other_side else x @ x.mT
        square = b * gram + ((c * gram) @ gram if kind == "muon-2025" else c * (gram @ gram))
        x = a * x + (x @ square if other_side else square @ x)
    return x.mT if tall and kind == "muon-2025" else x


def frobenius_scale(energy: Tensor, count: int, shape: torch.Size) -> Tensor:
    """(K, 1, 1) factors to the norm sqrt(min(M, N)) that an orthogonal matrix has; the iteration ends a little beside.

    energy: mean squares over `count` elements each, as for `normuon_scale`. Source: Muon+ (arXiv 2602.21545).
    """
    norm = (energy.sum(dim=(-2, -1), keepdim=True) * count).sqrt()
    return min(shape[-2:]) ** 0.5 / norm.clamp_min(TINY)


def normuon_scale(energy: Tensor, count: int, second_moment: Tensor, beta2: float) -> Tensor:
    """Factors, one a neuron, that shrink those whose steps have long been large; each matrix keeps its norm.

    energy: mean square of the direction over `count` elements, (K, M, 1) or (K, 1, N). second_moment: its running
    average, updated in place. Source: NorMuon (Li et al. 2025, arXiv 2510.05491).
    """
    second_moment.lerp_(energy.to(second_moment.dtype), 1 - beta2)
    scale = second_moment.clamp_min(1e-10).rsqrt().to(energy.dtype)
    before = (energy.sum(dim=(-2, -1), keepdim=True) * count).sqrt()
    after = ((energy * scale.square()).sum(dim=(-2, -1), keepdim=True) * count).sqrt()
    return scale * (before / after.clamp_min(1e-10))


def cautious_(weights: Tensor, direction: Tensor, lr: float, weight_decay: float) -> None:
    """w <- w - lr (direction + decay w), the decay only where the step itself makes the weight smaller; `direction` is
    used up.

    Source: cautious weight decay (Chen et al. 2025, arXiv 2510.12402).
    """
    if weight_decay:
        direction = direction.to(weights.dtype)
        agreed = (direction * weights).ge_(0)  # 1 where both have one sign, else 0
        direction.addcmul_(weights, agreed, value=weight_decay)
    weights.add_(direction, alpha=-lr)


def shape_factor(shape: torch.Size) -> float:
    """A tall matrix (more outputs than inputs) takes a longer step: sqrt(M / N), at least 1."""
    return max(1.0, shape[-2] / shape[-1]) ** 0.5


def neuron_dim(shape: torch.Size) -> int:
    """The dimension that NorMuon averages over: the rows of a wide matrix have statistics by column, and vice versa."""
    return -1 if shape[-2] >= shape[-1] else -2


def muon_(
    weights: Tensor, grads: Tensor, momentum_buffer: Tensor, second_moment: Tensor | None, *, kind: str, lr: float,
    momentum: float, ns_steps: int, beta2: float, weight_decay: float, iterate_in: torch.dtype,
) -> None:  # fmt: skip
    """One Muon step in place on a stack (K, M, N) of weights; `grads` is used up.

    kind: "muon", "muon-2026-02" or "muon-2025", see optim_config.py. second_moment: (K, M, 1) or (K, 1, N), None for
    2025, which had none. iterate_in: the format of the iterations.
    """
    wide = torch.float64 if weights.dtype == torch.float64 else torch.float32
    x = nesterov_(grads, momentum_buffer, momentum).to(wide)
    if kind == "muon":
        x = orthogonal(x.mul_(equilibrated_scale(x, 1.01, TINY)).to(iterate_in), POLAR_EXPRESS[:ns_steps]).to(wide)
    else:
        early = kind == "muon-2025"
        x = x.to(iterate_in)  # and it stays there: the steps of those days were rounded to it
        norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        x = x / (norm + 1e-7 if early else norm * 1.02 + TINY)
        x = orthogonal_before(x, (QUINTIC,) * ns_steps if early else POLAR_EXPRESS[:ns_steps], kind)
    lr *= shape_factor(x.shape)
    if second_moment is None:
        weights.add_(x, alpha=-lr)
        return
    over = neuron_dim(x.shape)
    count = x.size(over)
    energy = torch.linalg.vector_norm(x, dim=over, keepdim=True, dtype=wide).square() / count
    balance = torch.ones_like(energy)
    if kind == "muon":
        balance = frobenius_scale(energy, count, x.shape)
    balance = balance * normuon_scale(energy * balance.square(), count, second_moment, beta2)
    cautious_(weights, x.mul_(balance.to(x.dtype)), lr, weight_decay)
