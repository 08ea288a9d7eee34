"""What a script puts together before it calls `train`: device, number format, a fresh model, and the loss of a batch.

python -c "from nanochat.training_setup import matrix_speed; print(f'{matrix_speed():.3g} FLOP/s')"
"""

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat import precision
from nanochat.device import DeviceChoice, choose_device
from nanochat.distributed import World
from nanochat.optim_config import FORMATS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nanochat.gpt import GPT
    from nanochat.gpt_config import GPTConfig
    from nanochat.horizon import Horizon

# Dense bfloat16 FLOP/s by whole words of the device's name, from the makers' data sheets; the longer name comes first.
PEAK_FLOPS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "MI300X": 1307e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
LONG_RUN = 3 * 3600  # seconds; a CPU that would take longer is worth a warning
LONG_UPDATE = 0.1  # of a budget; a longer update leaves too few of them to learn from
TRAINING_SHARE = {"cpu": 0.45, "cuda": 0.4, "mps": 0.3}  # of the matrix speed that a forward and backward pass reaches
# What the optimizer does once an update, as the tokens that a forward and backward pass would read in that time, for
# each channel. Measured on a CPU at 128 and 256 channels: 2.1 to 2.6 with Muon, whose work grows with the channels.
OPTIMIZER_TOKENS = {"adamw": 0.3}
MUON_TOKENS = 2.5


class SetupError(ValueError):
    """A run that this machine cannot make: one sentence."""


def new_model(config: "GPTConfig", seed: int, device: Any = "cpu") -> "GPT":
    """A model with nanochat's starting weights. The same seed gives the same on every device."""
    import torch

    from nanochat.gpt import GPT

    with torch.random.fork_rng(devices=[]):  # a caller's own random numbers go on as if nothing had been drawn
        torch.manual_seed(seed)
        with torch.device("meta"):
            model = GPT(config)
        model = model.to_empty(device="cpu")
        model.init_weights()
    return model.to(device)


def size_of(config: "GPTConfig") -> tuple[dict[str, int], int]:
    """(parameters by what they are for, training FLOPs a token) of a model, without making one."""
    import torch

    from nanochat.gpt import GPT

    with torch.device("meta"):
        model = GPT(config)
    return model.num_scaling_params(), model.estimate_flops()


def rank_device(requested: str, world: World) -> DeviceChoice:
    """The device of this rank: of several on one machine each has a GPU of its own.

    Raises:
        DeviceError: there is no such device.
    """
    choice = choose_device(requested or "auto")
    return choose_device(f"cuda:{world.local_rank}") if choice.device == "cuda" and world.size > 1 else choice


def batch_loss(
    model: "GPT", dtype: "torch.dtype | None" = None, compiled: bool = False
) -> "Callable[[Tensor, Tensor], Tensor]":
    """(inputs, targets) -> the sum of nats over the counted targets, in `dtype` (None: that of the weights)."""
    import torch

    run = torch.compile(model, dynamic=False) if compiled else model
    return lambda inputs, targets: precision.forward_loss(run, inputs, targets, dtype)


def rehearse(model: "GPT", loss: "Callable[[Tensor, Tensor], Tensor]", open_loader: Callable[[], Any]) -> None:
    """Read one batch and work on it as an update would, and change nothing: whether it can be done at all.

    Raises:
        SetupError: there is not memory enough for it.
        PackingError, SFTDataError, DatasetError: there is nothing to read.
    """
    import torch

    with contextlib.closing(open_loader()) as loader:
        batch = loader.next_batch()
    try:
        loss(batch.inputs, batch.targets).backward()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        rows, length = batch.inputs.shape
        raise SetupError(
            f"there is not memory enough for {rows:,} rows of {length:,} tokens at a time with this model; give a "
            "smaller --device-batch-size, --max-seq-len or model; nothing was removed"
        ) from None
    finally:
        model.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Speed:
    """What a run computes with. A race and a clock decide it once: the run's numbers depend on it to the last bit."""

    dtype: "torch.dtype"  # of activations and products; the weights are float32
    compiled: bool
    newton_schulz: str | None  # the format of Muon's iterations; None: the optimizer's own choice
    device: str  # the kind of device that this was decided on: "cpu", "cuda" or "mps"
    flops_per_second: float  # that matrix products reach here, in that format, on one rank
    lines: tuple[str, ...] = ()  # for the screen: each choice with its reason

    def facts(self) -> dict[str, Any]:
        """As it stands in a checkpoint, under `lab`, `speed`: what a resumed run takes over."""
        return {
            "number_format": str(self.dtype).removeprefix("torch."),
            "compiled": self.compiled,
            "newton_schulz": self.newton_schulz,
            "device": self.device,
        }


def choose_speed(
    config: "GPTConfig",
    device: DeviceChoice,
    end: "Horizon",
    *,
    batch_tokens: int,
    step_flops: int,
    steps: int | None = None,
    optimizer: str = "muon",
    dtype: str = "auto",
    compile_step: str = "auto",
    meta: Mapping[str, Any] | None = None,
    world: World | None = None,
) -> Speed:
    """The number format, whether to compile the step, and lines for the screen: each choice with its reason.

    batch_tokens: of one forward pass; step_flops: of one update, all ranks; steps: how many there will be, roughly,
    where `end` counts none. optimizer: its kind. dtype: "auto", "float32" or "bfloat16". compile_step: "auto", "on" or
    "off". meta: of the step to go on from; what it says holds where these two are "auto": so a resumed run is the same
    run, whatever a race would say today. On a CPU the process is told to keep freed memory.
    """
    world, kind = world or World(), device.device.partition(":")[0]
    before, remarks = _decided_before(meta, kind)
    keeps = before is not None and dtype == "auto"
    if keeps:
        number, why = _format(before["number_format"]), "as the run began"
    else:
        number, why = _number_format(config, device, batch_tokens, dtype, world)
    speed = matrix_speed(device.device, number)
    seconds, steps = end.seconds, end.steps if end.steps is not None else steps
    if seconds is None and steps is not None:
        seconds = estimated_seconds(steps * step_flops, speed, kind, world.size)
    if compile_step != "auto":
        compiled, reason = compile_step == "on", f"torch.compile is {compile_step}, as asked"
    elif before is not None:
        compiled = before["compiled"]
        reason = f"{'compiled' if compiled else 'not compiled'}, as the run began"
        if compiled and (missing := precision.missing_compiler(kind)):
            compiled, reason = False, f"{missing}; the run began compiled, so it goes on, but not to the bit"
    else:
        compiled, reason = precision.compile_decision(seconds, device.device)
        compiled = world.add([float(world.first and compiled)], device.device)[0] > 0
    # nanochat's own rule: Muon's iterations work in the format of the run. The older kinds have a format of their own.
    orthogonalize = "bfloat16" if optimizer == "muon" and number == _format("bfloat16") else None
    kept = f"; {precision.keep_memory()[1]}" if kind == "cpu" else ""
    lines = [
        f"Runs on {device.name}{f', {world.size} ranks' if world.size > 1 else ''}. {device.device_reason}",
        *remarks,
        f"Number format: {str(number).removeprefix('torch.')} ({why}); {reason}{kept}.",
    ]
    update = estimated_seconds(step_flops, speed, kind, world.size)
    if end.seconds is not None and update > LONG_UPDATE * end.seconds:
        lines.append(
            f"WARNING: an update takes about {in_words(update)} here, and the budget is {in_words(end.seconds)}: the "
            "model would learn next to nothing; give a smaller --total-batch-size or model, or more --minutes"
        )
    if end.seconds is None and seconds is not None:
        lines.append(f"Takes about {in_words(seconds)}, as matrix products run at {speed:.2g} FLOP/s here.")
        if kind == "cpu" and seconds > LONG_RUN:
            lines.append(f"WARNING: {in_words(seconds)} is long; give --minutes, or a smaller model or batch")
    return Speed(number, compiled, before["newton_schulz"] if keeps else orthogonalize, kind, speed, tuple(lines))


def _number_format(
    config: "GPTConfig", device: DeviceChoice, batch_tokens: int, asked: str, world: World
) -> "tuple[torch.dtype, str]":
    """The number format of a run that has none yet, and why: as asked, or what wins a race."""
    if asked != "auto":
        return _format(asked), "as asked"
    chosen = precision.race(config, batch_tokens, device.device)
    # Each rank races for itself and a close race may end differently, so rank 0's result counts for all.
    bfloat16 = world.add([float(world.first and chosen.dtype == _format("bfloat16"))], device.device)[0]
    return _format("bfloat16" if bfloat16 else "float32"), chosen.reason.partition(": ")[2].rstrip(".")


def _decided_before(meta: Mapping[str, Any] | None, kind: str) -> tuple[Any, list[str]]:
    """What a step says of the run's speed, None where that is of no use here, and what to say about it."""
    if meta is None:
        return None, []
    saved = (meta.get("lab") or {}).get("speed")
    if not isinstance(saved, dict) or not (
        saved.get("number_format") in FORMATS
        and isinstance(saved.get("compiled"), bool)
        and saved.get("newton_schulz") in (None, *FORMATS)
    ):
        return None, ["The checkpoint does not say in which number format the run began; it is chosen anew."]
    if saved.get("device") != kind:
        where = str(saved.get("device"))[:20]
        return None, [f"The run began on {where} and goes on on {kind}: format and compilation are chosen anew."]
    return saved, []


def _format(name: str) -> "torch.dtype":
    import torch

    return getattr(torch, name)


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by its name; None where it is not known, as for every CPU.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    return next((peak for part, peak in PEAK_FLOPS.items() if re.search(rf"\b{part}\b", device_name)), None)


def matrix_speed(device: Any = "cpu", dtype: "torch.dtype | None" = None, seconds: float = 0.1) -> float:
    """FLOP/s that products of 512 x 512 matrices (on a GPU 4096) reach here, measured for about `seconds`.

    On a CPU sixteen in one call: a call waits up to 5 ms for its turn where another thread runs Python, and one product
    takes less than that.
    """
    import torch

    size, together = (4096, 1) if torch.device(device).type == "cuda" else (512, 16)
    a = torch.full((together, size, size), 0.01, device=device, dtype=dtype)

    def products() -> None:
        result = a @ a
        result[0, 0, 0].item()  # waits for a GPU

    products()
    begun, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < seconds:
        products()
        count += together
    return 2 * size**3 * count / spent


def fastest_products() -> float:
    """FLOP/s of this CPU's matrix products, in whichever number format is the faster one."""
    import torch

    return max(matrix_speed("cpu", number) for number in (torch.float32, torch.bfloat16))


def estimated_seconds(flops: float, speed: float, device: Any = "cpu", world_size: int = 1) -> float:
    """How long training takes, roughly."""
    return flops / (training_speed(speed, device) * world_size)


def training_speed(speed: float, device: Any = "cpu") -> float:
    """FLOP/s that a forward and backward pass reaches, roughly, where matrix products reach `speed`."""
    return speed * TRAINING_SHARE.get(str(device).partition(":")[0], 0.3)


def optimizer_tokens(config: "GPTConfig", kind: str) -> float:
    """How many tokens a forward and backward pass would read in the time of the optimizer's own work, roughly."""
    return OPTIMIZER_TOKENS.get(kind, MUON_TOKENS) * config.n_embd


def in_words(seconds: float) -> str:
    """A time for people.

    >>> in_words(90), in_words(7200), in_words(5e6)
    ('1.5 minutes', '2.0 hours', '58 days')
    """
    for limit, unit, word in ((90, 1.0, "seconds"), (5400, 60.0, "minutes"), (172_800, 3600.0, "hours")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 else 1}f} {word}"
    return f"{seconds / 86_400:,.0f} days"
