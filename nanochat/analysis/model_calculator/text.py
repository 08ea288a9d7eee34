"""What the terminal says of a model, a line at a time, with the labels of the tool's first version."""

from collections.abc import Iterator

from nanochat.analysis.model_calculator.compute import Bought, Training, nanochat_tokens
from nanochat.analysis.model_calculator.gpus import GPU, PRICES_AS_OF
from nanochat.analysis.model_calculator.measured import Count, Measured
from nanochat.analysis.model_calculator.memory import (
    DTYPES,
    STAGES,
    Item,
    Plan,
    gib,
    kv_bytes_a_token,
    weights_bytes,
)
from nanochat.analysis.model_calculator.parameters import Breakdown, Part

WIDTH = 70
_COUNT = 16  # digits and commas of a number of parameters


def both(size: float) -> str:
    """Bytes in GiB, and in GB for what disks and GPUs are sold by.

    >>> both(2**30)
    '1.00 GiB (1.07 GB)'
    """
    return f"{gib(size):.2f} GiB ({size / 1e9:.2f} GB)"


def title() -> Iterator[str]:
    """The head of the report."""
    yield from ("=" * WIDTH, "MODEL SIZE & COST CALCULATOR", "=" * WIDTH)


def _section(words: str) -> Iterator[str]:
    yield from ("", words, "-" * WIDTH)


def model(made: Breakdown, explain: bool = False) -> Iterator[str]:
    """Configuration and parameters."""
    yield from _section("📊 MODEL CONFIGURATION")
    yield f"  Layers (depth):        {made.layers}"
    yield f"  Hidden dimension:      {made.width:,}"
    yield f"  Vocabulary size:       {made.vocab:,}"
    yield f"  Attention heads:       {made.heads}"
    if made.kv_heads != made.heads:
        yield f"  Key/value heads:       {made.kv_heads}"
    yield f"  Family:                {made.arch}"
    yield from _section("🔢 PARAMETER BREAKDOWN")
    layered = [part for part in made.parts if (part.times == made.layers and made.layers > 1) or _per_layer(part)]
    rest = [part for part in made.parts if part not in layered]
    before, after = rest[:1], rest[1:]
    for part in before:
        yield from _line(part, 2, explain)
    if layered:
        yield "  Per-layer breakdown:"
        for part in layered:
            yield from _line(part, 4, explain, each=True)
        each = sum(part.each for part in layered)
        yield f"    - {'Total per layer:':<21}{each:>{_COUNT - 3},} params"
        yield f"  {f'All {made.layers} layers:':<22}{each * made.layers:>{_COUNT},} params"
    for part in after:
        yield from _line(part, 2, explain)
    yield "  " + "─" * 60
    yield f"  {'TOTAL PARAMETERS:':<22}{made.total:>{_COUNT},} params"
    yield f"  {made.total / 1e6:>{_COUNT + 22}.2f} M"
    yield f"  Of them multiplied with every token: {made.matrices:,}"


def _per_layer(part: Part) -> bool:
    return part.name in ("Attention", "MLP", "LayerNorm")


def _line(part: Part, indent: int, explain: bool, each: bool = False) -> Iterator[str]:
    mark = "- " if each else ""
    count = part.each if each else part.total
    label = f"{mark}{part.name}:"
    column = 22 + 2 + _COUNT - indent  # where the number ends
    times = f"  ({part.times} x {part.each:,})" if not each and part.times > 1 else ""
    yield f"{' ' * indent}{label:<22}{count:>{column - 22},} params{times}"
    if explain and part.formula != part.values:
        yield f"{' ' * (indent + 4)}= {part.formula} = {part.values}"


def memory(made: Breakdown, items: tuple[Item, ...], plan: Plan, tokens: int, explain: bool) -> Iterator[str]:
    """The wish's four figures, then what a device really holds."""
    yield from _section("💾 MEMORY REQUIREMENTS")
    N = made.total
    yield f"  Model weights (fp32):        {both(weights_bytes(made, 'fp32'))}"
    yield f"  Model weights (fp16):        {both(weights_bytes(made, 'fp16'))}"
    yield f"  Training (fp32+opt):         {both(16 * N)}"
    yield f"  Inference (fp16):            {both(weights_bytes(made, 'fp16'))}"
    each = kv_bytes_a_token(made)
    yield f"  KV cache (bf16):             {each:,} bytes a token, {both(each * tokens)} for {tokens:,} tokens"
    yield ""
    cut = "" if plan.zero == 0 else f", ZeRO stage {plan.zero}: {STAGES[plan.zero]} cut over {plan.devices} GPUs"
    yield (f"  Training in {plan.dtype} with {plan.optimizer}, {plan.rows:,} rows of {tokens:,} tokens a GPU{cut}:")
    for item in items:
        yield f"    {item.name + ':':<14} {both(item.size)}"
        if explain:
            yield f"      = {item.formula} = {item.values}"
    yield f"    {'On each GPU:':<14} {both(sum(item.size for item in items))}"
    if explain:
        values = f"2 x {made.layers} x {made.kv_heads} x {made.head_width} x {DTYPES['bf16']}"
        yield f"  KV cache a token = 2 L K h bytes = {values}"


def estimates(
    run: Training, batch: int, sequence: int, made: Breakdown, on: GPU | None, explain: bool
) -> Iterator[str]:
    """Steps, time, FLOPs, money."""
    yield from _section("⏱️  TRAINING ESTIMATES")
    hours = run.seconds / 3600
    yield f"  Training tokens:       {run.tokens / 1e9:.1f}B tokens"
    yield f"  Batch size:            {batch:,} sequences"
    yield f"  Sequence length:       {sequence} tokens"
    yield f"  Tokens per batch:      {batch * sequence:,}"
    yield f"  Total steps:           {run.steps:,}"
    yield f"  Throughput:            {run.tokens_a_second:,.0f} tokens/sec"
    yield f"  Training time:         {hours:,.1f} hours ({hours / 24:,.1f} days)"
    yield f"  Total FLOPs:           {6 * made.total * run.tokens / 1e15:.1f} PetaFLOPs (6 N D)"
    yield f"  Exact FLOPs:           {run.flops / 1e15:.1f} PetaFLOPs ({run.flops_a_token:,} a token)"
    if explain:
        yield f"      a token = {run.formula} = {run.values}"
    if run.dollars is not None:
        where = f" (round price of {PRICES_AS_OF}; --usd-per-hour gives yours)" if on is not None else ""
        yield f"  Cost:                  ${run.dollars:,.2f}{where}"


def insights(made: Breakdown, run: Training) -> Iterator[str]:
    """What to learn from the figures."""
    yield from _section("💡 LEARNING INSIGHTS")
    N = made.total
    yield f"  • Embeddings use ~{made.of_kind('embedding') / N:.1%} of parameters"
    yield f"  • Attention layers use ~{made.of_kind('attention') / N:.1%} of parameters"
    yield f"  • MLP layers use ~{made.of_kind('mlp') / N:.1%} of parameters"
    yield "  • Training needs ~4x more memory than inference in fp32, and 8x more than in fp16"
    yield f"  • Each parameter sees {run.tokens / N:.0f} tokens during training"
    wanted, rule = nanochat_tokens(made)
    yield f"  • A good length would be {wanted / 1e9:,.2f}B tokens: {rule}"


def bought(found: Bought, on: GPU, devices: int, mfu: float) -> Iterator[str]:
    """What a budget buys."""
    yield from _section(f"💰 WHAT THE BUDGET BUYS ({devices} x {on.name}, {mfu:.0%} of the peak)")
    if found.model is None or found.training is None:
        yield f"  Nothing: {found.reason}"
        return
    run = found.training
    yield f"  Depth:                 {found.depth} (the next is too much: {found.reason})"
    yield f"  Parameters:            {found.model.total:,}"
    yield f"  Tokens:                {run.tokens / 1e9:,.2f}B"
    yield f"  Training time:         {run.seconds / 3600:,.1f} hours"
    yield f"  Cost:                  ${run.dollars or 0:,.2f}"


def verified(count: Count, step: Measured | None) -> Iterator[str]:
    """The figures held against the real model."""
    yield from _section("✅ HELD AGAINST THE REAL MODEL")
    yield f"  Parameters by formula: {count.formula:,}"
    yield f"  sum(p.numel()):        {count.model:,} ({'equal' if count.equal else 'NOT EQUAL'})"
    if step is not None:
        yield f"  A step of {step.rows} x {step.tokens} tokens on this machine's {step.device.upper()}, in fp32:"
        yield f"    Time:    {step.seconds:.3f} s measured, {step.estimated_seconds:.3f} s estimated"
        yield f"    Memory:  {both(step.memory)} measured, {both(step.estimated_memory)} estimated"


def batch_line(rows: int, on: GPU, zero: int) -> str:
    """How many sequences fit."""
    if rows < 1:
        return f"  Not one sequence fits into the {on.memory / 1e9:.0f} GB of a {on.name}: try a higher ZeRO stage"
    return f"  Largest batch of one {on.name} ({on.memory / 1e9:.0f} GB, a tenth left free): {rows:,} sequences"
