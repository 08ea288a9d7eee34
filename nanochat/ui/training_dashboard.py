"""The training dashboard's page: how its runs are looked at, the curve, and what is below it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.ui.figures import figures as tiles
from nanochat.ui.states import go_to, nothing_yet
from nanochat.ui.text import plain, visible
from nanochat.ui.training_dashboard_runs import POINTS, key, opened

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis import training_dashboard as dashboard

Ends = tuple[float | None, float | None]  # of the part that is shown, on its axis

ROWS = 300  # of a table on the page; the file has all
# Rows of the runs -> how often they are drawn anew while one is written: only what is new is read, but all is drawn.
PACES = ((20_000, "1s"), (200_000, "3s"), (1 << 62, "10s"))


def teach() -> None:
    """What the page shows, while there is nothing to show."""
    nothing_yet(
        "No training yet",
        "This page draws the curve of a training, says what happened on it, and finds the best checkpoint. "
        "It reads runs of this project and of nanochat, and the logs that nanochat printed (*A log*, above).",
        "nanochat demo",
    )
    st.markdown(
        "**How to read a curve.** It begins near ln V, which a model has that knows nothing: 7.15 for 1,280 tokens. "
        "In the first minute it learns which tokens are frequent, then which follow each other. "
        "Where the learning rate begins to fall, the loss falls faster once more. "
        "Single spikes are odd pieces of text; a curve that rises and stays up has diverged."
    )


def look_form(runs: Sequence[dashboard.History]) -> tuple[str, dashboard.Look, bool]:
    """(metric, how it is looked at, logarithmic values)."""
    from nanochat.analysis import training_dashboard as dashboard

    known = dashboard.available(runs) or ["train_loss"]
    _keep_zoom()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        metric = st.selectbox("Show", known, key=key("metric"), format_func=dashboard.METRICS.__getitem__, width=230,
                              bind="query-params")  # fmt: skip
        axis = st.selectbox("Over", list(dashboard.AXES), key=key("axis"), format_func=dashboard.AXES.__getitem__,
                            width=115, bind="query-params")  # fmt: skip
        smoothing = st.slider(
            "Smoothing", 0.0, 0.99, 0.9, 0.01, key=key("smoothing"), width=170, bind="query-params",
            help="How much of the moving average is old. The band has every value, spikes too.",
        )  # fmt: skip
        low = st.number_input("From", value=None, key=key("low"), placeholder="begin", width=118, bind="query-params")
        high = st.number_input("To", value=None, key=key("high"), placeholder="end", width=118, bind="query-params")
        log_x = st.toggle("Log axis", key=key("log_x"), bind="query-params")
        log_y = st.toggle("Log values", key=key("log_y"), bind="query-params")
    if low is not None and high is not None and low >= high:
        st.warning(f"From {low:g} to {high:g} there is nothing; give a larger end.", icon=":material/warning:")
        low = high = None
    points = max(POINTS * 2 // max(len(runs), 2), 100)
    return metric or known[0], dashboard.Look(axis or "step", log_x, smoothing, low, high, points), log_y


def _ends() -> Ends:
    """What the fields From and To hold."""
    return st.session_state.get(key("low")), st.session_state.get(key("high"))


def _set_ends(ends: Ends) -> None:
    st.session_state[key("low")], st.session_state[key("high")] = ends


def _same(one: Ends, other: Ends) -> bool:
    """Whether two pairs of ends differ by rounding at most."""
    return all(a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6))
               for a, b in zip(one, other, strict=True))  # fmt: skip


def _forget_zoom(runs: Sequence[dashboard.History]) -> None:
    """A part of one run says nothing about another: it is let go where all that was looked at is exchanged."""
    names = {run.name for run in runs}
    before = st.session_state.get(key("looked_at"), names)
    st.session_state[key("looked_at")] = names
    if not before & names:
        st.session_state.pop(key("zoom"), None)
        _set_ends((None, None))


def _keep_zoom() -> None:
    """Put the ends of a zoom by dragging into the fields again, where a late redrawing took them out.

    A run that is written to is drawn anew by the clock. Where the browser asks for that in the moment between a drag
    and its answer, it sends the ends of before, and Streamlit takes them for what somebody wants now.
    """
    before, wanted, drawn = st.session_state.pop(key("zoom"), (None, None, True))
    if not drawn:  # this is the zoom's own redrawing; the next one tells what the browser holds
        st.session_state[key("zoom")] = (before, wanted, True)
    elif wanted is not None and _ends() == before != wanted:
        st.session_state[key("zoom")] = (before, wanted, True)
        _set_ends(wanted)


def show(folders: Sequence[Path], logs: Sequence[Path], uploaded: Sequence[dashboard.History]) -> None:
    """The curve and its figures, drawn again each second while a run is being written; below it what does not move."""
    from nanochat.analysis import training_dashboard as dashboard

    place = st.empty()  # always here: what follows keeps its place on the page, whether a run had to be read or not
    runs = dashboard.told_apart([*opened(folders, logs, place), *uploaded])
    if not runs:
        return
    _forget_zoom(runs)
    live = any(run.live for run in runs)
    pace = next(pace for rows, pace in PACES if sum(run.rows.height for run in runs) <= rows)

    def draw() -> None:
        now = dashboard.told_apart([*opened(folders, logs), *uploaded]) if live else runs
        if not now:
            return
        if live and not any(run.live for run in now):
            st.rerun()  # it has ended: nothing needs to be drawn again and again
        metric, look, log_y = look_form(now)
        figures(now)
        if live:
            st.caption(f"Live: it is being written to, and this is drawn anew every {pace[:-1]} s.")
        _curve(now, metric, look, log_y)
        _overview(now, metric, look)

    st.fragment(draw, run_every=pace if live else None)()  # a zoom, too, draws this part alone
    happened, table, sources, files = st.tabs(["What happened", "Checkpoints", "Sources", "Files"])
    with happened:
        _happened(runs)
    with table:
        for run in runs:
            _checkpoints(run, len(runs) > 1)
    with sources:
        _sources(runs)
    with files:
        _files(runs)


def figures(runs: Sequence[dashboard.History]) -> None:
    """The figures of one run as numbers, of several as a table."""
    from nanochat.analysis import training_dashboard as dashboard

    found = [dashboard.summary(run) for run in runs]
    if len(runs) > 1:
        rows = [
            {"Run": visible(run.name), "Step": one.step, "Train loss": one.train_loss.value,
             "Val BPB": one.val_bpb.value, "Best val BPB": one.best.value, "at step": one.best.step,
             "Tokens": one.tokens.value, "Seconds": one.time.value, "Tokens/s": one.speed.value}
            for run, one in zip(runs, found, strict=True)
        ]  # fmt: skip
        st.dataframe(rows, hide_index=True, alt="The last figures of each run")
        return
    one = found[0]
    known = (
        ("Train loss", one.train_loss, ".4f"), ("Val BPB", one.val_bpb, ".4f"), ("Best val BPB", one.best, ".4f"),
        ("Learning rate", one.learning_rate, ".1e"), ("Tokens a second", one.speed, ",.0f"),
    )  # fmt: skip
    step = f"{one.step or 0:,}" + (f" of {one.horizon:,}" if one.horizon else "")
    tiles(("Step", step), *(_tile(name, figure, form) for name, figure, form in known))


def _tile(name: str, figure: dashboard.Figure, form: str) -> tuple[str, str | None, str]:
    """A figure with where it comes from."""
    at = "" if figure.step is None else f"Step {figure.step:,}: "
    value = None if figure.value is None else f"{figure.value:{form}}"
    return name, value, plain(at + figure.source)


def _lines(run: dashboard.History, metric: str) -> list[tuple[str, float]]:
    words = {"uniform": "knows nothing", "unigrams": "knows single tokens", "floor": "no model gets below"}
    return [(f"{words[one.name]} = {one.value:.3f}", one.value) for one in _levels(run)[0] if one.metric == metric]


def _levels(run: dashboard.History) -> tuple[Any, Any]:
    """The lines of a run, kept: to count single tokens takes part of a second, and they do not change."""
    kept = st.session_state.setdefault(key("levels"), {})
    name = (str(run.folder), run.model.get("vocab_size"), len(run.checkpoints) > 0)
    if name not in kept:
        from nanochat.analysis import training_dashboard as dashboard

        with st.spinner("Counting single tokens of the training text"):
            kept[name] = dashboard.levels(run)
    return kept[name]


def _curve(runs: Sequence[dashboard.History], metric: str, look: dashboard.Look, log_y: bool) -> None:
    import polars as pl

    from nanochat.analysis import training_dashboard as dashboard
    from nanochat.charts import in_place
    from nanochat.charts.training_dashboard import curve_chart

    points = dashboard.curve(runs, metric, look)
    if points.is_empty():
        why = runs[0].missing.get(metric) or runs[0].missing.get(look.axis) or "nothing lies in the part that is shown"
        st.info(f"No curve of {dashboard.METRICS[metric]} over {dashboard.AXES[look.axis]}: {why}.")
        return
    lines = _lines(runs[0], metric) if len(runs) == 1 and look.low is None and look.high is None else []
    top = _top(runs, points, metric) if not log_y and look.low is None else None
    chart = curve_chart(
        points, dashboard.AXES[look.axis], dashboard.METRICS[metric], log_x=look.log_x, log_y=log_y, lines=lines,
        marks=_marks(runs, points, look), top=top,
    )  # fmt: skip
    st.vega_lite_chart(
        spec=in_place(chart),
        height="content",
        alt=f"{dashboard.METRICS[metric]} over {dashboard.AXES[look.axis]}",
    )
    if top is not None and float(points["high"].max()) > top:  # type: ignore[arg-type]
        cut = points.filter(pl.col("high") > top).sort("high", descending=True)
        highest = "; ".join(_cut(runs, *row) for row in cut.head(3).select("run", "high").rows())
        more = f"; and {len(cut) - 3:,} more" if len(cut) > 3 else ""
        st.caption(plain(f"Cut off above: {highest}{more}.") + " *Log values* shows all of it.")


def _cut(runs: Sequence[dashboard.History], name: str, value: float) -> str:
    """A loss above the chart's end, with its step."""
    import polars as pl

    run = next(run for run in runs if run.name == name)
    steps = run.frame.filter(pl.col("train_loss") == value)["step"].to_list()
    place = f" at step {steps[0]:,}" if steps else ""
    return f"{value:.3g}{place}" + (f" of {name}" if len(runs) > 1 else "")


def _top(runs: Sequence[dashboard.History], points: pl.DataFrame, metric: str) -> float | None:
    """Where the axis of a loss ends: above its beginning, not at the highest spike."""
    if metric != "train_loss":
        return None
    begin = [float(points.filter(points["run"] == run.name)["value"].head(1).max() or 0.0) for run in runs]  # type: ignore[arg-type]
    return 1.15 * max([value for _, value in _lines(runs[0], metric)] + begin)


def _marks(runs: Sequence[dashboard.History], points: pl.DataFrame, look: dashboard.Look) -> pl.DataFrame:
    """What happened, at its place on the chart."""
    import polars as pl

    from nanochat.analysis import training_dashboard as dashboard

    rows = []
    for run in runs:
        own = points.filter(pl.col("run") == run.name)
        for mark in dashboard.marks(run) if len(own) else ():
            x = dashboard.place_of(run, mark.step, look.axis)
            crowded = mark.kind == "spike" and len(runs) > 1  # the list below has them all
            if crowded or x is None or not own["x"][0] <= x <= own["x"][-1]:
                continue
            near = own.filter(pl.col("x") >= x).row(0, named=True)  # a point stands for the stretch that ends there
            y = near["high"] if mark.kind == "spike" else near["value"]
            rows.append({"run": run.name, "x": x, "y": y, "kind": mark.kind, "title": mark.title,
                         "sentence": mark.sentence})  # fmt: skip
    text = ("run", "kind", "title", "sentence")
    return pl.DataFrame(rows, {"run": pl.String, "x": pl.Float64, "y": pl.Float64} | dict.fromkeys(text, pl.String))


def _overview(runs: Sequence[dashboard.History], metric: str, look: dashboard.Look) -> None:
    """A small curve of the whole that is dragged over to zoom."""
    from dataclasses import replace

    from nanochat.analysis import training_dashboard as dashboard
    from nanochat.charts.training_dashboard import BRUSH, overview_chart

    whole = dashboard.curve(runs, metric, replace(look, low=None, high=None, points=200))
    if len(whole) < 20:
        return

    st.caption("Drag over a part of the small curve to see it large; a double click shows all again.")

    def zoomed() -> None:
        selection = st.session_state.get(key("overview")) or {}
        part = (selection.get("selection") or {}).get(BRUSH, {}).get("x")
        wanted: Ends = tuple(part) if part else (None, None)
        before = st.session_state.get(key("brush"))
        st.session_state[key("brush")] = wanted
        if before is not None and _same(before, wanted):
            return  # nobody dragged: where the curve has grown, the browser says once more where its brush stands
        st.session_state[key("zoom")] = (_ends(), wanted, False)
        _set_ends(wanted)

    st.altair_chart(
        overview_chart(whole, look.log_x), key=key("overview"), on_select=zoomed,
        height="content",
        alt="The whole run, to drag over; the fields From and To do the same",
    )  # fmt: skip


def _happened(runs: Sequence[dashboard.History]) -> None:
    from nanochat.analysis import training_dashboard as dashboard

    for run in runs:
        if len(runs) > 1:
            st.text(visible(run.name))
        found = [f"- **{title}**. {sentence}" for title, sentence in dashboard.told(dashboard.marks(run))]
        nothing = "Nothing that the rules look for: phases of the rate, spikes, plateaus, divergence, slowness."
        st.markdown("\n".join(found) or nothing)
    known, missing = _levels(runs[0])
    if len(runs) > 1:
        st.text(visible(f"To compare with, of {runs[0].name}"))
    for line in known:
        st.markdown(f"- **{line.name}**: {line.sentence}")
    for reason in missing:
        st.caption(plain(reason))


def _checkpoints(run: dashboard.History, named: bool) -> None:
    from nanochat.analysis import training_dashboard as dashboard

    if named:
        st.text(visible(run.name))
    table = dashboard.progress(run)
    st.dataframe(table.head(ROWS), hide_index=True, alt="Saved and evaluated steps")
    wanted = [name for name in ("train_loss", "val_bpb", "learning_rate") if name in run.missing]
    unknown = [f"{name} is unknown: {run.missing[name]}." for name in wanted]
    if unknown:
        st.caption(plain(" ".join(unknown)))


def _sources(runs: Sequence[dashboard.History]) -> None:
    for run in runs:
        st.code("\n".join(visible(note) for note in run.notes) or "nothing", language=None, wrap_lines=True)
        if run.problems:
            st.markdown("What could not be read:")
            st.code("\n".join(visible(problem) for problem in run.problems[:50]), language=None, wrap_lines=True)


def _encoded(runs: Sequence[dashboard.History], ending: str) -> bytes:
    from nanochat.analysis import training_dashboard as dashboard

    return dashboard.encoded(dashboard.export(runs), ending)


def _files(runs: Sequence[dashboard.History]) -> None:
    """Everything as a table to take away, and the same in a terminal."""
    with st.container(horizontal=True):
        for ending in (".csv", ".parquet"):
            st.download_button(
                f"Download {ending}", functools.partial(_encoded, runs, ending),
                f"training_metrics{ending}", key=key(f"download{ending}"),
            )  # fmt: skip
    folders = [visible(str(run.folder)) for run in runs if run.folder is not None]
    if folders:
        import shlex

        st.code(f"nanochat training_dashboard {shlex.join(folders)} --export-csv", language=None, wrap_lines=True)
    with st.container(horizontal=True):
        for stem in ("training_resume_helper", "checkpoint_browser", "lr_finder"):
            go_to(stem)
