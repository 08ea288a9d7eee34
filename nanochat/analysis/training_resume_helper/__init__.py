"""Go on with a run that stopped: what is there, what is left, how, and a proof that it does go on.

    from nanochat.analysis import training_resume_helper as helper
    report = helper.inspect("base_checkpoints/d20")
    helper.ways(report)[0].command
    helper.prove(report).sentence

In a terminal: nanochat training_resume_helper base_checkpoints/d20
"""

from nanochat.analysis.training_resume_helper.background import (
    DRILL,
    PROOF,
    Told,
    drill_job,
    newest,
    proof_job,
    said,
    told,
)
from nanochat.analysis.training_resume_helper.commands import Way, optimizer_kind, program, ways
from nanochat.analysis.training_resume_helper.drill import Scene, drill, recover, train_and_kill
from nanochat.analysis.training_resume_helper.proof import Again, Proof, judge, memory_is_empty, prove, proving
from nanochat.analysis.training_resume_helper.report import Report, ResumeError, inspect

__all__ = [
    "DRILL", "PROOF", "Again", "Proof", "Report", "ResumeError", "Scene", "Told", "Way", "drill", "drill_job",
    "inspect", "judge", "memory_is_empty", "newest", "optimizer_kind", "program", "proof_job", "prove", "proving",
    "recover", "said", "told", "train_and_kill", "ways",
]  # fmt: skip
