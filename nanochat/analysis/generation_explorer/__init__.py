"""Watch a model choose its next word: every step's candidates, branches, settings compared, many texts counted.

    engine, loaded = open_engine(folder, step)
    session = Session(engine, encode_prompt(engine.tokenizer, "Once upon a time", chat=False).ids)
    settings = Settings(temperature=0.9, top_k=50)
    report = read_text(session, settings, list(session.write(settings, 50)))

session.py writes and remembers, steps.py looks at a step, branches.py keeps what-ifs, comparison.py and batch.py
compare settings on one text and on many, lens.py asks every layer. Terminal and page are views of these.
"""

from nanochat.analysis.generation_explorer.batch import Statistics, statistics
from nanochat.analysis.generation_explorer.branches import ROOT, Branch, Tree
from nanochat.analysis.generation_explorer.comparison import Comparison, Variation, compare
from nanochat.analysis.generation_explorer.lens import lens
from nanochat.analysis.generation_explorer.session import ORIGINS, Session, Token, divergence
from nanochat.analysis.generation_explorer.settings import (
    COMPARED,
    LABELS,
    TEMPERATURES,
    ExplorerError,
    Prompt,
    Settings,
    encode_prompt,
    knows_stories,
    open_engine,
)
from nanochat.analysis.generation_explorer.steps import (
    StepReport,
    TextReport,
    example_step,
    read_step,
    read_text,
    spelled,
    stages,
)

__all__ = [
    "COMPARED",
    "LABELS",
    "ORIGINS",
    "ROOT",
    "TEMPERATURES",
    "Branch",
    "Comparison",
    "ExplorerError",
    "Prompt",
    "Session",
    "Settings",
    "Statistics",
    "StepReport",
    "TextReport",
    "Token",
    "Tree",
    "Variation",
    "compare",
    "divergence",
    "encode_prompt",
    "example_step",
    "knows_stories",
    "lens",
    "open_engine",
    "read_step",
    "read_text",
    "spelled",
    "stages",
    "statistics",
]
