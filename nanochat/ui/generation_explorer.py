"""The generation explorer's parts: the settings, a text that grows as chips, its steps, branches side by side.

What a person has made of a prompt, texts, branches and kept logits, is one `Work` in the session. A text is written in
pieces of a fraction of a second and the page runs again for the next piece, so every control answers meanwhile.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import streamlit as st

from nanochat.analysis import generation_explorer as explorer
from nanochat.analysis.generation_explorer import Session, Settings, TextReport, Token
from nanochat.model_queue import ModelQueue
from nanochat.ui.chips import Chip, chips, spell
from nanochat.ui.figures import figures
from nanochat.ui.models import Shared, open_shared, tell_waiting
from nanochat.ui.pickers import Checkpoint
from nanochat.ui.text import visible

PAGE = "generation_explorer"
PIECE = 0.3  # seconds that a text may grow before the page is drawn again
CANDIDATES = 12  # of a step, as chips and bars
BRIGHT = 10.0  # bits from which on a chip is as bright as it gets
COLOURS = ("Surprise", "Entropy", "Nothing")
MOST_TOKENS = 500


@dataclass
class Opened:
    """A model that all tabs share; it is only read."""

    shared: Shared
    engine: Any
    stories: bool  # its training text was the built-in stories, which can be judged
    notes: tuple[str, ...]


@dataclass
class Work:
    """One prompt under one model in one tab."""

    key: tuple[Any, ...]
    prompt: explorer.Prompt
    session: Session
    queue: ModelQueue  # in front of the model
    tree: explorer.Tree = field(default_factory=explorer.Tree)
    branch: str = explorer.ROOT
    step: int | None = None  # the step that is looked at, from 0
    counting: tuple[Any, int] = (None, 0)  # what is written now, and the forward passes before it


def opened(checkpoint: Checkpoint) -> Opened | None:
    """A checkpoint's model; None while the person has not decided about one that is too large.

    Raises CheckpointError, TokenizerError.
    """
    from nanochat.engine import Engine

    shared = open_shared(PAGE, checkpoint)
    if shared is None:
        return None
    loaded = shared.loaded
    return Opened(shared, Engine(loaded.model, loaded.tokenizer), explorer.knows_stories(loaded.meta), loaded.notes)


def choose_settings() -> tuple[Settings, int]:
    """The controls, bound to the address; (settings, the most tokens of a text)."""
    left, middle, right = st.columns(3)
    bound: dict[str, Any] = {"bind": "query-params"}
    temperature = left.slider("Temperature", 0.0, 2.0, 0.9, 0.05, key=f"{PAGE}_temperature", **bound,
                              help="Below 1 likely tokens become likelier; 0 always takes the likeliest.")  # fmt: skip
    top_k = left.slider("Top-k", 0, 200, 0, key=f"{PAGE}_top_k", **bound,
                        help="Choose among the k likeliest tokens only. 0: among all.")  # fmt: skip
    top_p = middle.slider("Top-p", 0.05, 1.0, 1.0, 0.01, key=f"{PAGE}_top_p", **bound,
                          help="Choose among the likeliest tokens that hold this share. 1: among all.")  # fmt: skip
    min_p = middle.slider("Min-p", 0.0, 0.5, 0.0, 0.01, key=f"{PAGE}_min_p", **bound,
                          help="Drop tokens below this fraction of the likeliest one's share. 0: none.")  # fmt: skip
    most = right.slider("Tokens", 5, MOST_TOKENS, 50, 5, key=f"{PAGE}_tokens", **bound)
    seed = right.number_input("Seed", 0, 2**31, 42, key=f"{PAGE}_seed", **bound,
                              help="The dice. The same seed and settings give the same text.")  # fmt: skip
    settings = Settings(
        float(temperature), int(top_k) or None, float(top_p) if top_p < 1 else None, float(min_p) or None, int(seed)
    )
    return settings, int(most)


def work_on(model: Opened, prompt: explorer.Prompt) -> Work:
    """This tab's work on this prompt under this model; another prompt or model begins anew. Raises EngineError."""
    found = st.session_state.get(f"{PAGE}_work")
    key = (*model.shared.key, prompt.ids)
    if not isinstance(found, Work) or found.key != key:
        found = Work(key, prompt, Session(model.engine, prompt.ids), model.shared.queue)
        st.session_state[f"{PAGE}_work"] = found
    return found


def grow(
    work: Work, settings: Settings, most: int, fixed: Sequence[Token], deadline: float, place: Any
) -> tuple[list[Token], bool]:
    """(the text as far as it goes until the deadline, whether that is all of it). Raises BusyError.

    What is kept is there at once; the model is asked for the rest, in turns with everybody else who uses it.
    place: where waiting for it is said.
    """
    session = work.session
    tokens = list(session.write(settings, most, fixed, known=True))
    if _ended(session, tokens, most):
        return tokens, True
    for token in _new_tokens(work, settings, most, tokens, place):
        tokens.append(token)
        if time.monotonic() > deadline and not _ended(session, tokens, most):
            return tokens, False
    return tokens, True


def _ended(session: Session, tokens: list[Token], most: int) -> bool:
    return len(tokens) == most or (bool(tokens) and tokens[-1].id in session.engine.ends)


def _new_tokens(work: Work, settings: Settings, most: int, before: list[Token], place: Any) -> Iterator[Token]:
    """What the model says behind these tokens, each when its turn has come; closed, it gives its seat away."""
    text = work.session.write(settings, most, list(before))
    for _ in range(len(before)):
        next(text)
    with work.queue.seat(partial(tell_waiting, place)):
        place.empty()
        yield from work.queue.in_turns(lambda: text)


def draw_writing(work: Work, settings: Settings, most: int) -> None:
    """The text of a branch, and what can be done with a step of it."""
    from nanochat.charts import generation_explorer as charts

    branch = _choose_branch(work)
    mine = branch.settings(settings)
    if work.counting[0] != (mine, branch.name, most):
        work.counting = ((mine, branch.name, most), work.session.passes)
    tokens, whole = grow(work, mine, most, branch.fixed, time.monotonic() + PIECE, st.empty())
    report = explorer.read_text(work.session, mine, tokens)
    if work.step is not None and work.step >= len(tokens):
        work.step = None
    colour = st.segmented_control("Colour", COLOURS, default=COLOURS[0], key=f"{PAGE}_colour",
                                  required=True, bind="query-params",
                                  help="Dark: the model was sure. Bright: 10 bits or more.")  # fmt: skip
    picked = chips(
        text_chips(report, colour or "Nothing"), key=f"{PAGE}_text", label="The text, token by token", pick=True,
        selected=work.step, legend={"special": "forced by you", "cut": "written by a tool"},
    )  # fmt: skip
    if picked is not None and picked != work.step:
        work.step = picked
        st.rerun()
    mean = report.steps["surprise"].mean() if tokens else None
    figures(
        ("Tokens", f"{len(tokens):,}"),
        ("Bits a token", f"{mean:.2f}" if isinstance(mean, float) else "-"),
        ("Computed anew", f"{work.session.passes - work.counting[1]:,}"),
        ("Ending", "its own" if report.ended else "cut off" if whole else "writing"),
    )
    if not whole:
        st.rerun()
    st.altair_chart(
        charts.ribbon(report.steps, None if work.step is None else work.step + 1).properties(height=170),
        alt="Entropy and surprise at every step of the text",
    )
    if work.step is None:
        st.caption("Click a token, or press Enter on it, to see what else it could have been.")
    else:
        draw_step(work, mine, tokens, report)
    if len(work.tree.branches) > 1:
        _beside(work, settings, most, report)
    with st.expander("Every step as a table"):
        st.dataframe(report.steps, hide_index=True, alt="Every step with its figures")


def _choose_branch(work: Work) -> explorer.Branch:
    """The branch that is looked at; the tree is drawn where there is more than the trunk."""
    if len(work.tree.branches) == 1:
        return work.tree.branches[0]
    outline = {branch.name: (depth, branch) for depth, branch in work.tree.outline()}
    key = f"{PAGE}_branch"
    if st.session_state.get(key) != work.branch:  # only then: it would overrule a click that is on its way
        st.session_state[key] = work.branch

    def go() -> None:
        work.branch, work.step = st.session_state[key], None

    st.radio(
        "Branch", list(outline), key=key, on_change=go,
        format_func=lambda name: _label(*outline[name]),
    )  # fmt: skip
    return work.tree.find(work.branch)


def _label(depth: int, branch: explorer.Branch) -> str:
    """A branch in the tree. Streamlit reads labels as Markdown, so every mark that it could take as one is escaped."""
    words = "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|$~:&" else c for c in visible(branch.what))
    return "\u00a0\u00a0" * depth + f"{branch.name}: {words}"


def text_chips(report: TextReport, colour: str = "Nothing") -> list[Chip]:
    """A text's tokens with their figures as tooltips."""
    styles = {"model": "token", "you": "special", "tool": "cut"}
    found = []
    columns = ("id", "text", "origin", "p_model", "p", "rank", "entropy", "surprise", "kept")
    for number, text, origin, p_model, p, rank, entropy, surprise, kept in report.steps.select(columns).iter_rows():
        tip = (
            f"{explorer.ORIGINS[origin]}\nmodel alone {p_model:.2%}, rank {rank:,}\n"
            f"drawn with {p:.2%} of {kept:,} kept\nentropy {entropy:.2f} bits, surprise {surprise:.2f} bits"
        )
        heat = {"Surprise": surprise / BRIGHT, "Entropy": entropy / BRIGHT}.get(colour) if origin == "model" else None
        found.append(Chip(_broken(text), number, tip, styles[origin], heat))
    return found


def _broken(text: str) -> str:
    """A token's text with its line breaks as such: chips begin a new line behind them."""
    return text.replace("\\n", "\n") if text.strip(" ").replace("\\n", "") == "" else text


def draw_step(work: Work, settings: Settings, tokens: list[Token], report: TextReport) -> None:
    """One step: its figures, its candidates, and ways to leave the text there."""
    from nanochat.charts import generation_explorer as charts

    assert work.step is not None
    at, row = work.step, report.steps.row(work.step, named=True)
    step = explorer.read_step(work.session, settings, report.ids[:at], row["id"], CANDIDATES)
    st.subheader(f"Step {at + 1}", anchor=False)
    st.text(f"It said “{spell(_broken(row['text']))}”, {explorer.ORIGINS[row['origin']]}.")
    figures(
        ("Probability", f"{row['p_model']:.1%}"), ("Drawn with", f"{row['p']:.1%}"), ("Rank", f"{row['rank']:,}"),
        ("Entropy, bits", f"{row['entropy']:.2f}"), ("Surprise, bits", f"{row['surprise']:.2f}"),
        ("Kept", f"{step.kept:,}"),
    )  # fmt: skip
    st.altair_chart(charts.candidates(step.candidates).properties(height=420),
                    alt="The candidates before temperature, after it, and after the filters")  # fmt: skip
    st.markdown("**What if it had said something else?** Click a candidate to force it.")
    frame = step.candidates
    choices = [
        Chip(f"{_broken(text)} {p:.1%}", number, f"rank {rank:,}\nmodel alone {p_model:.3%}\n{_fate(cut)}",
             "special" if taken else "context" if cut else "plain")
        for rank, number, text, p_model, p, cut, taken in frame.select(
            "rank", "id", "text", "p_model", "p", "cut", "taken"
        ).iter_rows()
    ]  # fmt: skip
    forced = chips(choices, key=f"{PAGE}_candidates", label="Candidates", pick=True,
                   legend={"special": "taken", "plain": "kept", "context": "cut"})  # fmt: skip
    if forced is not None and not frame["taken"][forced]:
        _force(work, tokens, [frame["id"][forced]], _broken(frame["text"][forced]))
    with st.form(f"{PAGE}_other", clear_on_submit=True, border=False):
        words = st.text_input("Or other words", key=f"{PAGE}_words", max_chars=200,
                              help="A word within a text begins with a blank.")  # fmt: skip
        sent = st.form_submit_button("Force", icon=":material/call_split:")
    if sent and words:
        _force(work, tokens, work.session.engine.tokenizer.encode(words), words)
    if st.button("Draw again from here", key=f"{PAGE}_rewind", icon=":material/replay:",
                 help="A new branch that keeps what stands before this step and throws other dice."):  # fmt: skip
        _go(work, *work.tree.rewind(work.branch, tokens, at))
    if st.toggle("What would each layer have said?", key=f"{PAGE}_lens", bind="query-params"):
        with work.queue.turn():
            lens = explorer.lens(work.session, report.ids[:at], row["id"])
        st.altair_chart(charts.lens(lens), alt="The likeliest token of each layer, and the share of the one taken")
        with st.expander("As a table"):
            st.dataframe(lens, hide_index=True, alt="Every layer's candidates")


def _fate(cut: str | None) -> str:
    return "cut: only the likeliest is taken" if cut == "greedy" else f"cut by {cut}" if cut else "kept"


def _force(work: Work, tokens: list[Token], ids: list[int], words: str) -> None:
    assert work.step is not None
    _go(work, *work.tree.force(work.branch, tokens, work.step, ids, words))


def _go(work: Work, tree: explorer.Tree, branch: explorer.Branch) -> None:
    """Look at a branch that was just made."""
    work.tree, work.branch = tree, branch.name
    st.rerun()


def _beside(work: Work, settings: Settings, most: int, report: TextReport) -> None:
    """Another branch beside this one, with the place at which they part."""
    others = [branch.name for branch in work.tree.branches if branch.name != work.branch]
    other = st.selectbox("Compare with branch", others, index=None, key=f"{PAGE}_other_branch", placeholder="none")
    if other is None:
        return
    branch = work.tree.find(other)
    mine = branch.settings(settings)
    with st.spinner("Writing the other branch"):
        theirs = explorer.read_text(work.session, mine, grow(work, mine, most, branch.fixed, math.inf, st.empty())[0])
    apart = explorer.divergence(report.ids, theirs.ids)
    st.markdown("The texts are the same." if apart is None else f"First divergence: step **{apart + 1}**.")
    left, right = st.columns(2)
    for column, name, one in ((left, work.branch, report), (right, other, theirs)):
        with column:
            st.markdown(f"**{name}**")
            apart_chips(one, apart, f"{PAGE}_beside_{name}")


def apart_chips(report: TextReport, apart: int | None, key: str) -> None:
    """A text of which the part that it shares with another is grey, and the first token of its own is marked."""
    styles = ["context" if apart is None or i < apart else "supervised" if i == apart else "plain"
              for i in range(len(report.ids))]  # fmt: skip
    tokens = [Chip(chip.text, chip.id, chip.tooltip, style)
              for chip, style in zip(text_chips(report), styles, strict=True)]  # fmt: skip
    chips(tokens, key=key, label="Tokens")
