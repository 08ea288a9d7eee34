"""Parameters, memory, FLOPs, time and cost of a model before it is trained, and what a budget buys.

    python -m nanochat.tools.model_calculator --preset gpt2-small
    python -m nanochat.tools.model_calculator --depth 12 --hidden-dim 768 --vocab-size 32000
    python -m nanochat.tools.model_calculator --family nanochat --depth 20 --gpu H100 --gpus 8 --explain
    python -m nanochat.tools.model_calculator --budget-usd 100 --gpu H100 --gpus 8
    python -m nanochat.tools.model_calculator --family nanochat --depth 4 --measure

With sizes alone it counts the textbook GPT (`generic`). Presets named after real models count these.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat.errors import exit_status

TINY = "nanochat-tiny"  # where nothing is said


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(prog="nanochat model_calculator", description=(__doc__ or "").split("\n\n")[0])
    which = p.add_argument_group("the model")
    which.add_argument("--preset", help="nanochat-tiny (default), nanochat-small, gpt2-small, ... xl, llama-3-8b, ...")
    which.add_argument("--family", help="generic, gpt2, llama, gptneox, nanochat or nanochat_DATE (generic)")
    which.add_argument("--depth", type=int, help="layers")
    which.add_argument("--hidden-dim", type=int, help="width (64 for each layer)")
    which.add_argument("--vocab-size", type=int, help="tokens of the vocabulary (by family)")
    which.add_argument("--heads", type=int, help="attention heads (one for 64 of the width; by depth in nanochat)")
    which.add_argument("--kv-heads", type=int, help="key/value heads: llama, nanochat (as many as heads)")
    which.add_argument("--mlp-dim", type=int, help="width of the MLP: llama (4 times the width)")
    how = p.add_argument_group("the training")
    how.add_argument("--batch-size", type=int, default=64, help="sequences of a step (64)")
    how.add_argument("--sequence-length", type=int, help="tokens of a sequence (1024; 2048 of nanochat's families)")
    how.add_argument("--total-tokens", type=int, default=10_000_000_000, help="tokens to train on (10 billion)")
    how.add_argument("--tokens-per-sec", type=float, default=100_000, help="speed, where no GPU is named (100000)")
    how.add_argument("--gpu", help="speed by a GPU: H100, A100, RTX 4090, ...")
    how.add_argument("--gpus", type=int, default=1, help="how many (1)")
    how.add_argument("--mfu", type=float, help="share of its peak that training reaches (0.4)")
    how.add_argument("--usd-per-hour", type=float, help="price of one GPU (a round figure)")
    how.add_argument("--optimizer", default="adamw", help="adamw, muon or sgd (adamw)")
    how.add_argument("--dtype", default="bf16", help="of weights and gradients: fp32, bf16, fp16 (bf16)")
    how.add_argument("--rows", type=int, help="sequences a GPU works on at once (the batch over the GPUs)")
    how.add_argument(
        "--recompute", default="attention", help="what is computed twice: none, attention, full (attention)"
    )
    how.add_argument("--zero", type=int, default=0, help="ZeRO stage: what is cut over the GPUs, 0 to 3 (0)")
    back = p.add_argument_group("the way back: what depth a budget buys (nanochat, its own number of tokens)")
    back.add_argument("--budget-usd", type=float, help="dollars")
    back.add_argument("--budget-hours", type=float, help="hours")
    back.add_argument("--budget-gb", type=float, help="GB of memory of one GPU")
    p.add_argument("--verify", action="store_true", help="count the real model's parameters, too (nanochat)")
    p.add_argument("--measure", action="store_true", help="and run a step of it on this machine's CPU")
    p.add_argument("--explain", action="store_true", help="every formula with its values put in")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw where the parameters are, as .png or .svg")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Calculate and print."""
    args = parser().parse_args(argv)
    from nanochat.analysis import model_calculator as calc

    on = calc.gpu(args.gpu) if args.gpu else None
    mfu = calc.HONEST_MFU if args.mfu is None else args.mfu
    found = None
    if any(value is not None for value in (args.budget_usd, args.budget_hours, args.budget_gb)):
        budget = (args.budget_usd, args.budget_hours, args.budget_gb)
        on = on or calc.gpu("H100")
        found = calc.buy(on, args.gpus, *budget, mfu, args.usd_per_hour, _plan(args, 1, "muon"))
    model = _model(args, found.model if found is not None else None)
    tokens = calc.sequence_of(model, args.sequence_length)
    rows = args.rows if args.rows is not None else max(1, args.batch_size // max(args.gpus, 1))
    plan = _plan(args, rows)
    items = calc.training_memory(model, plan, tokens)
    run = calc.training(
        model, args.total_tokens, args.batch_size * tokens, args.tokens_per_sec, on, args.gpus, mfu,
        args.usd_per_hour,
    )  # fmt: skip
    count = calc.count_on_meta(model) if args.verify or args.measure else None
    step = calc.measure(model) if args.measure else None
    fits = calc.largest_rows(model, plan, on.memory, tokens) if on is not None else None
    if args.json:
        _print_json(model, items, run, found, count, step, fits)
    else:
        for line in _lines(args, model, items, plan, run, on, mfu, found, count, step, fits, tokens):
            print(line)
    if args.plot is not None:
        print(_plot(model, args.plot), file=sys.stderr if args.json else sys.stdout)
    return 0 if count is None or count.equal else 1


def _model(args: argparse.Namespace, bought: Any) -> Any:
    from nanochat.analysis import model_calculator as calc

    sizes = {
        "n_layer": args.depth, "d_model": args.hidden_dim, "vocab": args.vocab_size, "n_head": args.heads,
        "n_kv_head": args.kv_heads, "d_ff": args.mlp_dim,
    }  # fmt: skip
    given = {name: value for name, value in sizes.items() if value is not None}
    if bought is not None and not given and not args.preset:
        return bought
    if args.preset or not (given or args.family):
        name = args.preset or TINY
        arch = args.family or calc.PRESETS.get(name, {}).get("arch", "")
        return calc.preset(name, **given | ({"arch": args.family} if args.family else {}) | _context(args, arch))
    if args.family:
        return calc.count_parameters(args.family, **given | _context(args, args.family))
    depth = 12 if args.depth is None else args.depth
    width = 64 * depth if args.hidden_dim is None else args.hidden_dim
    return calc.count_parameters("generic", **given | {"n_layer": depth, "d_model": width} | _context(args, "generic"))


def _context(args: argparse.Namespace, arch: str) -> dict[str, int]:
    """The context, for families that are trained on any: gpt2's belongs to its weights, the others' to their design."""
    free = arch == "generic" or arch.startswith("nanochat")
    return {"context": args.sequence_length} if free and args.sequence_length is not None else {}


def _plan(args: argparse.Namespace, rows: int, optimizer: str | None = None) -> Any:
    from nanochat.analysis.model_calculator import Plan

    return Plan(args.dtype, optimizer or args.optimizer, True, rows, args.recompute, args.zero, args.gpus)


def _lines(
    args: argparse.Namespace, model: Any, items: Any, plan: Any, run: Any, on: Any, mfu: float, found: Any, count: Any,
    step: Any, fits: int | None, tokens: int,
) -> Iterator[str]:  # fmt: skip
    from nanochat.analysis.model_calculator import text

    yield from text.title()
    if found is not None:
        yield from text.bought(found, on, args.gpus, mfu)
    yield from text.model(model, args.explain)
    yield from text.memory(model, items, plan, tokens, args.explain)
    if fits is not None:
        yield text.batch_line(fits, on, args.zero)
    yield from text.estimates(run, args.batch_size, tokens, model, on, args.explain)
    if count is not None:
        yield from text.verified(count, step)
    yield from text.insights(model, run)
    yield "=" * text.WIDTH


def _print_json(model: Any, items: Any, run: Any, found: Any, count: Any, step: Any, fits: int | None) -> None:
    from nanochat.analysis import model_calculator as calc

    parts = [asdict(part) | {"total": part.total} for part in model.parts]
    whole = {"arch": model.arch, "total": model.total, "matrices": model.matrices, "scaling": model.scaling}
    whole |= {"parts": parts, "kv_bytes_a_token": calc.kv_bytes_a_token(model), "training": asdict(run)}
    whole |= {"memory": [asdict(item) for item in items], "largest_rows": fits}
    if found is not None:
        bought = {"depth": found.depth, "reason": found.reason}
        whole["bought"] = bought | ({} if found.training is None else asdict(found.training))
    if count is not None:
        whole["verified"] = {"formula": count.formula, "model": count.model, "equal": count.equal}
    if step is not None:
        whole["measured"] = asdict(step)
    print(json.dumps(whole))


def _plot(model: Any, path: Path) -> str:
    import polars as pl

    from nanochat import charts
    from nanochat.charts.model_calculator import parts_chart

    rows = [(part.name, part.kind, part.total, part.total / model.total) for part in model.parts]
    frame = pl.DataFrame(rows, ["part", "kind", "parameters", "share"], orient="row")
    return charts.save(parts_chart(frame), path, [f"{name:<22} {count:>18,}" for name, _, count, _ in rows])


if __name__ == "__main__":
    sys.exit(exit_status("model_calculator", main))
