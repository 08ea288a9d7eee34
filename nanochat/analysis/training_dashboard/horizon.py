"""How many steps a run was to have, in the steps that its checkpoints are named by, and who says so."""

from collections.abc import Mapping
from typing import Any


def steps_in_all(
    stage: str | None, meta: Mapping[str, Any], facts: Mapping[str, Any], printed: int | None
) -> tuple[int | None, str]:
    """(the step of the run's end, how that is known; None where nothing tells).

    meta: of its last checkpoint. facts: what its logs say beside their rows. printed: N of the log's `step 3/N`.
    """
    lab = _object(meta.get("lab"))
    steps = _object(lab.get("horizon")).get("steps")
    if type(steps) is int and steps > 0:
        return steps, "recorded with the checkpoint"
    settings = _object(meta.get("user_config"))
    asked = settings.get("num_iterations")
    if type(asked) is int and asked > 0:
        if stage == "sft" and not lab and "target_examples_per_step" not in settings:
            return _of_parts(asked, facts)
        return asked, "--num-iterations of the run"
    if printed is not None and printed > 0:
        # nanochat saves pretraining after step N; RL, and fine-tuning of 2025, count from 0 and end with step N - 1.
        if stage in ("sft", "rl") and not lab and printed > 1:
            return printed - 1, f"the last of the {printed} that the log counts, from 0"
        return printed, "printed in the log"
    return None, "it stands neither in the meta file nor in a log (--target-steps N says it)"


def _of_parts(asked: int, facts: Mapping[str, Any]) -> tuple[int, str]:
    """nanochat's fine-tuning of 2026 counts batches, of which several make an update; the first comes before any."""
    parts = facts.get("gradient_accumulation")
    if type(parts) is not int or parts < 1:
        return asked, "--num-iterations of the run, if a batch is an update: no log tells how many make one"
    return max(-(-(asked - 1) // parts), 1), f"--num-iterations {asked} of the run, {parts} of them an update"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
