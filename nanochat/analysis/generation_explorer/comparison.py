"""The same prompt and the same dice under several settings, and where the texts first part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.analysis.generation_explorer.session import Session, Token, divergence
from nanochat.analysis.generation_explorer.settings import COMPARED, LABELS, OFF, ExplorerError, Settings
from nanochat.analysis.generation_explorer.steps import TextReport, read_text

if TYPE_CHECKING:
    import polars as pl

MOST = 20  # settings side by side


@dataclass(frozen=True)
class Variation:
    """The text under one value of the setting that is compared."""

    label: str  # such as "Temperature 0.5"
    value: float
    report: TextReport
    diverges: int | None  # the step, from 0, at which it leaves the one it is compared with; None: never
    passes: int  # forward passes that it needed beyond those before it


@dataclass(frozen=True)
class Comparison:
    """Texts side by side, all compared with one of them."""

    name: str  # the setting that differs
    variations: tuple[Variation, ...]
    reference: int  # the place of that one
    frame: "pl.DataFrame"  # value, tokens, diverges (step from 1), p_model, entropy, surprise, passes, text


def compare(
    session: Session,
    settings: Settings,
    name: str,
    values: Sequence[float] = (),
    max_tokens: int | None = None,
    fixed: Sequence[Token] = (),
) -> Comparison:
    """Write the text once for each value of one setting: "temperature", "top_k", "top_p" or "min_p".

    They are compared with the text under the value that the settings have, or the first where it is not among them.
    Raises ExplorerError for another setting or too many values, EngineError and KernelInputError for impossible ones.
    """
    import polars as pl

    if name not in COMPARED:
        raise ExplorerError(f"{name!r} cannot be compared; take one of {', '.join(COMPARED)}")
    values = list(dict.fromkeys(values or COMPARED[name]))
    if len(values) > MOST:
        raise ExplorerError(f"{len(values)} values of {name} are too many to compare; give at most {MOST}")
    own = getattr(settings, name)
    own = OFF[name] if own is None else own
    reference = values.index(own) if own in values else 0
    reports, passes = [], []
    for value in values:
        before = session.passes
        varied = settings.varied(name, value)
        reports.append(read_text(session, varied, list(session.write(varied, max_tokens, fixed))))
        passes.append(session.passes - before)
    against = reports[reference].ids
    found = [
        Variation(f"{LABELS[name]} {value:g}", value, report, divergence(against, report.ids), spent)
        for value, report, spent in zip(values, reports, passes, strict=True)
    ]
    rows = [
        {
            "value": float(one.value),
            "tokens": len(one.report.ids),
            "diverges": None if one.diverges is None else one.diverges + 1,
            **{column: one.report.steps[column].mean() for column in ("p_model", "entropy", "surprise")},
            "passes": one.passes,
            "text": one.report.text,
        }
        for one in found
    ]
    return Comparison(name, tuple(found), reference, pl.DataFrame(rows, schema_overrides={"diverges": pl.Int64}))
