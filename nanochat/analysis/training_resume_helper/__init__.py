"""Go on with a run that stopped: what is there, what is left, how, and a proof that it does go on.

    from nanochat.analysis import training_resume_helper as helper
    report = helper.inspect("base_checkpoints/d20")
    helper.ways(report)[0].command
    helper.prove(report).sentence

In a terminal: nanochat training_resume_helper base_checkpoints/d20
"""

from nanochat.analysis.training_resume_helper.commands import Way, optimizer_kind, program, ways
from nanochat.analysis.training_resume_helper.drill import Scene, drill, recover, train_and_kill
from nanochat.analysis.training_resume_helper.proof import Proof, judge, memory_is_empty, prove
from nanochat.analysis.training_resume_helper.report import Report, ResumeError, inspect

__all__ = [
    "Proof", "Report", "ResumeError", "Scene", "Way", "drill", "inspect", "judge", "memory_is_empty", "optimizer_kind",
    "program", "prove", "recover", "train_and_kill", "ways",
]  # fmt: skip
