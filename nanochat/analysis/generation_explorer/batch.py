"""Many texts under each setting, counted: how different they are, how often they repeat themselves, how many are right.

distinct-n is the share of different n-grams among all n-grams of all texts (Li et al. 2016, a measure of diversity).
Repetition is the share of 4-grams that the same text has said before (after Welleck et al. 2020). For a model of the
built-in stories the grammar says which texts are stories.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.analysis.generation_explorer.settings import ExplorerError, Prompt, Settings

if TYPE_CHECKING:
    import polars as pl

    from nanochat.engine import Engine

REPEATED = 4  # tokens of an n-gram whose return counts as repetition
MOST = 1000  # texts of a setting
InTurns = Callable[[Callable[[], Iterator[Any]]], Iterator[Any]]  # as ModelQueue.in_turns


@dataclass(frozen=True)
class Statistics:
    """Figures of each setting, and the texts that they were counted on."""

    name: str  # the setting that differs
    samples: int  # texts of each setting
    judged: bool  # whether the grammar was asked
    frame: "pl.DataFrame"  # value, tokens (mean), ended, different, distinct_1, _2, _3, repetition, accepted, shape
    texts: "pl.DataFrame"  # value, sample (from 1), text, accepted, reason


def statistics(
    engine: "Engine",
    prompt: Prompt,
    settings: Settings,
    values: Sequence[float],
    *,
    name: str = "temperature",
    samples: int = 16,
    max_tokens: int = 50,
    judged: bool = False,
    progress: Callable[[int, int], None] = lambda done, all_of_them: None,
    in_turns: InTurns = lambda start: start(),
) -> Statistics:
    """Write `samples` texts under each value of one setting, side by side in one batch, and count.

    Row 0 of each is the text that the explorer shows for this seed. progress: called with (settings done, settings).
    in_turns: how each generation is run, where others use the model meanwhile.
    Raises ExplorerError for a number of samples out of range; EngineError, KernelInputError for settings.
    """
    import polars as pl

    if not 1 <= samples <= MOST:
        raise ExplorerError(f"{samples:,} texts of each setting; give 1 to {MOST:,}")
    if not values:
        raise ExplorerError(f"no value of {name} to count texts for; give at least one")
    rows, texts = [], []
    judged = judged and not prompt.chat
    for done, value in enumerate(dict.fromkeys(values)):
        progress(done, len(values))
        varied = settings.varied(name, value)
        drawn, ended = _write(engine, prompt, varied, samples, max_tokens, in_turns)
        said = [engine.tokenizer.decode(ids) for ids in drawn]
        verdicts = (
            [_verdict(prompt.text + text, over) for text, over in zip(said, ended, strict=True)] if judged else []
        )
        rows.append(
            {
                "value": float(value),
                "tokens": sum(map(len, drawn)) / samples,
                "ended": sum(ended) / samples,
                "different": len(set(map(tuple, drawn))) / samples,
                **{f"distinct_{n}": distinct(drawn, n) for n in (1, 2, 3)},
                "repetition": repetition(drawn),
                "accepted": sum(verdict[0] for verdict in verdicts) / samples if judged else None,
                "shape": sum(verdict[1] for verdict in verdicts) / samples if judged else None,
            }
        )
        for number, text in enumerate(said):
            accepted, _, reason = verdicts[number] if judged else (None, None, None)
            texts.append(
                {"value": float(value), "sample": number + 1, "text": text, "accepted": accepted, "reason": reason}
            )
    shares = {"distinct_1", "distinct_2", "distinct_3", "repetition", "accepted", "shape"}
    kinds = {"accepted": pl.Boolean, "reason": pl.String}
    return Statistics(
        name,
        samples,
        judged,
        pl.DataFrame(rows, schema_overrides=dict.fromkeys(shares, pl.Float64)),
        pl.DataFrame(texts, schema_overrides=kinds),
    )


def _write(
    engine: "Engine", prompt: Prompt, settings: Settings, samples: int, max_tokens: int, in_turns: InTurns
) -> tuple[list[list[int]], list[bool]]:
    """(tokens of each row without its end, whether it came to its end)."""
    drawn: list[list[int]] = [[] for _ in range(samples)]
    ended = [False] * samples
    how = {**settings.sampling(), "seed": settings.seed}
    for column, _ in in_turns(lambda: engine.generate(list(prompt.ids), samples, max_tokens, **how)):
        for row, token in enumerate(column):
            if token in engine.ends:
                ended[row] = True
            elif token is not None:
                drawn[row].append(token)
    return drawn, ended


def _verdict(text: str, ended: bool) -> tuple[bool, bool, str]:
    """(a story, a story by its sentences, why): a text that was cut off is none, whatever it says."""
    from nanochat.stories import judge

    if not ended:
        return False, False, "it was cut off before its end; allow more tokens"
    verdict = judge(text.strip())
    return verdict.accepted, verdict.shape, verdict.reason


def distinct(texts: Sequence[Sequence[int]], n: int) -> float | None:
    """The share of different n-grams among all of them; None where no text is that long.

    >>> distinct([[1, 2, 1, 2]], 2)
    0.6666666666666666
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(texts: Sequence[Sequence[int]]) -> float | None:
    """The share of 4-grams that stood in the same text before; None where no text is that long."""
    all_of_them = sum(max(len(text) - REPEATED + 1, 0) for text in texts)
    different = sum(len(set(_grams(text, REPEATED))) for text in texts)
    return 1 - different / all_of_them if all_of_them else None


def _grams(text: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return (tuple(text[place : place + n]) for place in range(len(text) - n + 1))
