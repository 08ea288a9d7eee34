"""Learning rates: what a run that is over says about them, and a range test that finds one for the next.

    from nanochat.analysis import lr_finder
    lr_finder.analyse("base_checkpoints/d20").schedule.word          # "warmup_decay"
    subject = lr_finder.open_subject("base_checkpoints/d4", 120)
    points = list(lr_finder.sweep(subject, lr_finder.Settings()))

In a terminal: nanochat lr_finder base_checkpoints/d20 --range-test
"""

from nanochat.analysis.lr_finder.rules import RULES, RangeTestError, Suggestions, suggest
from nanochat.analysis.lr_finder.run import ADVICE, Analysis, Best, analyse, analysis_of, rate_text
from nanochat.analysis.lr_finder.schedule import WORDS, Recognised, recognise
from nanochat.analysis.lr_finder.subject import STARTS, Subject, open_subject
from nanochat.analysis.lr_finder.sweeping import ALL, POINTS, Curve, Point, RangeTest, Settings, range_test, sweep
from nanochat.analysis.lr_finder.trials import STEPS, Trial, TrialStep, Verdict, short_runs, trial, verdict

__all__ = [
    "ADVICE", "ALL", "POINTS", "RULES", "STARTS", "STEPS", "WORDS", "Analysis", "Best", "Curve", "Point", "RangeTest",
    "RangeTestError", "Recognised", "Settings", "Subject", "Suggestions", "Trial", "TrialStep", "Verdict", "analyse",
    "analysis_of", "open_subject", "range_test", "rate_text", "recognise", "short_runs", "suggest", "sweep", "trial",
    "verdict",
]  # fmt: skip
