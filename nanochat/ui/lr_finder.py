"""The parts of the learning-rate finder's page: a run's own history, and a range test as a background job."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st

from nanochat import jobs, paths
from nanochat.checkpoint_files import CheckpointError
from nanochat.errors import is_message
from nanochat.jobs import JobError
from nanochat.ui.errors import show_problem
from nanochat.ui.figures import figures
from nanochat.ui.pickers import base_dir_input, pick_run
from nanochat.ui.text import plain, visible

if TYPE_CHECKING:
    from nanochat.analysis import training_dashboard
    from nanochat.analysis.lr_finder import job as lr_job
    from nanochat.checkpoint_runs import Run

PAGE = "lr_finder"
HISTORY, TEST = "history", "range test"  # the views, as they stand on the page and in the address
LENGTHS = {"short": (60, 1), "usual": (100, 3), "long": (300, 3)}  # word -> steps, seeds


def key(name: str) -> str:
    """A widget's key, with the page's name in front."""
    return f"{PAGE}_{name}"


def pick() -> tuple[str, Run] | None:
    """(view, run); None, and an explanation on the page, where there is no run."""
    extra = base_dir_input(PAGE)
    picked = pick_run(PAGE, extra=extra)
    if picked is None:
        return None
    view = st.segmented_control(
        "View", [HISTORY, TEST], default=HISTORY, required=True, key=key("view"), bind="query-params"
    )
    return view or HISTORY, picked[1]


def teach() -> None:
    """What the page says while there is nothing to look at."""
    st.markdown(
        "**What a learning rate is.** After each batch, every weight moves a little against its gradient; the learning "
        "rate says how far. Ten times too small, and a training costs ten times as long. Ten times too large, and the "
        "loss jumps about or never comes down.\n\n"
        "**How one is found.** A range test begins with a tiny rate and raises it at each update. The loss stays, "
        "then falls, then climbs. A good rate lies where it falls, well before it climbs.\n\n"
        "**Why it changes during a run.** A new model's gradients are wild, so the rate warms up. At the end small "
        "steps settle what large ones found, so it cools down: *warmup, stable, decay*."
    )


@st.cache_resource(max_entries=16)
def _follower_of_run(folder: str) -> training_dashboard.Follower:
    """The reader of a run's files, shared by all visitors: a look at a run that did not change costs nothing."""
    from nanochat.analysis import training_dashboard

    return training_dashboard.Follower(folder)


def show_run(run: Run) -> None:
    """The schedule, the best point and what to try, with both curves."""
    from nanochat.analysis import lr_finder
    from nanochat.charts import lr_finder as charts

    with st.spinner("Reading the run"):
        found = lr_finder.analysis_of(_follower_of_run(str(run.folder.absolute())).look()[0])
    best = found.best
    st.markdown(f"**Schedule: {found.schedule.word}**")
    st.text(visible(f"{found.schedule.detail}: {found.schedule.reason}."))
    figures(
        ("Lowest rate", lr_finder.rate_text(found.low)),
        ("Highest rate", lr_finder.rate_text(found.high)),
        ("Rate at the lowest loss", lr_finder.rate_text(None if best is None else best.rate)),
        ("Lowest training loss", "unknown" if best is None else f"{best.loss:.4f}"),
    )
    step = None if best is None else best.step
    if found.points["rate"].null_count() < found.points.height:
        st.altair_chart(
            charts.rate_chart(found.points, found.unit, step), alt="Learning rate over the updates", height="content"
        )
    if found.points["loss"].null_count() < found.points.height:
        st.altair_chart(
            charts.loss_chart(found.points, step), alt="Training loss over the updates", height="content"
        )  # fmt: skip
    with st.expander("As a table"):
        st.dataframe(found.points.tail(200), hide_index=True, alt="Rates and losses, the last updates")
    st.subheader("For the next run", anchor=False)
    for note in found.notes:
        st.markdown(note)
    first, second = lr_finder.ADVICE[found.schedule.word]
    st.markdown(f"**{found.schedule.word}**: {first} {second}")
    if found.advice:
        figures(*((name, lr_finder.rate_text(rate)) for name, rate in found.advice))
    _problems(found.problems)
    st.code(shlex.join(["nanochat", PAGE, visible(str(run.folder))]), language=None, wrap_lines=True)


def _problems(problems: tuple[str, ...]) -> None:
    if problems:
        with st.expander(f"{len(problems)} files could not be read" if len(problems) > 1 else "A file cannot be read"):
            for problem in problems[:50]:
                st.text(visible(problem))


def show_test(run: Run) -> None:
    """The tests of this run, or the settings of a new one."""
    folder = str(run.folder.absolute())
    mine = [job for job in jobs.all_jobs({PAGE}) if job.facts.get("folder") == folder]
    by_id = {job.id: job for job in mine}
    started = st.session_state.pop(key("next"), None)
    chosen_key = key("job")
    if started is not None:
        st.session_state[chosen_key] = started
    elif chosen_key not in st.session_state:
        running = next((job.id for job in mine if jobs.status(job).alive), "")
        st.session_state[chosen_key] = st.query_params.get(chosen_key, running)
    if st.session_state[chosen_key] not in by_id:
        st.session_state[chosen_key] = ""
    chosen = ""
    if mine:
        chosen = st.selectbox(
            "Range tests", ["", *by_id], key=chosen_key, format_func=lambda job_id: job_id or "a new one"
        )  # fmt: skip
    if chosen:
        st.query_params[chosen_key] = chosen
        job = by_id[chosen]
        alive = jobs.status(job).alive
        st.fragment(_draw, run_every="1s" if alive else None)(job, alive)
    else:
        st.query_params.pop(chosen_key, None)
        _new(run)


def _new(run: Run) -> None:
    """Settings, the command, and the button."""
    st.markdown(
        "The run's own kind of model is trained on its own text while a factor on all its learning rates grows from "
        "update to update. Nothing is written into the run."
    )
    left, middle, right = st.columns(3)
    length = left.segmented_control(
        "Length", list(LENGTHS), default="usual", required=True, key=key("length"), bind="query-params",
        help="short: 60 updates, one seed; usual: 100 updates, three seeds; long: 300 updates, three seeds",
    )  # fmt: skip
    start = middle.segmented_control(
        "Begin with", ["fresh", "trained"], default="fresh", required=True, key=key("start"), bind="query-params",
        help="Fresh weights, to find the rate of a new run; or those of this run, to find one to go on with.",
    )  # fmt: skip
    low, high = right.select_slider(
        "Factors on the rates",
        [10.0**power for power in range(-5, 6)],
        value=(1e-3, 1e4),
        key=key("range"),
        format_func=lambda factor: f"{factor:g}",
    )
    trial = st.toggle("Then short runs at three rates", value=True, key=key("trial"), bind="query-params",
                      help="They say whether the suggestion holds.")  # fmt: skip
    each = st.toggle("Each group on its own, too", key=key("each"), bind="query-params", help="Takes much longer.")
    data = st.text_input("Another text, empty for the run's own", key=key("data"), placeholder="stories")
    steps, seeds = LENGTHS[length or "usual"]
    arguments = [
        str(run.folder.absolute()), "--range-test", "--low", f"{low:g}", "--high", f"{high:g}", "--sweep-steps",
        str(steps), "--seeds", str(seeds), "--start", start or "fresh",
    ]  # fmt: skip
    arguments += ["--trial"] * trial + ["--groups", "each"] * each
    arguments += ["--data", str(paths.expand(data)) if "/" in data else data] if data.strip() else []
    st.code(visible(shlex.join(["nanochat", PAGE, *arguments])), language=None, wrap_lines=True)
    if st.button("Start", type="primary", icon=":material/play_arrow:", key=key("go")):
        from nanochat.analysis.lr_finder import job as lr_job

        facts = {"kind": PAGE, "tag": run.tag, "stages": [run.stage], "folder": str(run.folder.absolute())}
        try:
            job = jobs.start("Learning rate range test", [(lr_job.TOOL, *arguments, "--events")], facts)
        except (JobError, CheckpointError) as refusal:
            show_problem("The test cannot be started.", str(refusal))
            return
        st.session_state[key("next")] = job.id
        st.rerun()


def _follower(job: jobs.Job) -> lr_job.Follower:
    """The reader of this job's log, kept while this tab lives."""
    from nanochat.analysis.lr_finder import job as lr_job

    kept = st.session_state.get(key("follower"))
    if not isinstance(kept, lr_job.Follower) or kept.job.id != job.id:
        kept = st.session_state[key("follower")] = lr_job.Follower(job)
    return kept


def _draw(job: jobs.Job, was_alive: bool) -> None:
    """A test as it stands. Draws itself again each second while it lives."""
    now = jobs.status(job)
    try:
        state = _follower(job).look()
    except Exception as error:
        if not is_message(error):
            raise
        show_problem("This test cannot be shown.", str(error))
        return
    if was_alive and not now.alive:
        st.rerun()
    if now.alive:
        st.progress(
            min(state.share, 1.0), text=f"{plain(state.name) or 'getting ready'}: {state.points.height} updates"
        )
        _stop_button(job)
    elif now.state in ("failed", "lost"):
        said = state.lines[-1] if state.lines else "it ended without a word"
        show_problem("The test failed.", said)
    elif now.state == "stopped":
        st.info("Stopped; this is what it had.", icon=":material/stop:")
    if state.report is not None:
        _report(state, now)
    if not now.alive:
        st.button("Another test", key=key("another"), icon=":material/restart_alt:", on_click=_show_settings)
    if state.notes:
        with st.expander("What was tested"):
            for note in state.notes:
                st.text(visible(note))


def _show_settings() -> None:
    st.session_state[key("job")] = ""


def _stop_button(job: jobs.Job) -> None:
    asked = key(f"asked_{job.id}")
    if st.button("Stop", key=key("stop"), icon=":material/stop:", disabled=asked in st.session_state):
        try:
            jobs.stop(job)
        except JobError as refusal:
            st.toast(plain(str(refusal)))
            return
        st.session_state[asked] = True
        st.rerun(scope="fragment")


def _report(state: lr_job.State, now: jobs.Status) -> None:
    """Curves, suggestions, rates and the verdict."""
    from nanochat.charts import lr_finder as charts

    assert state.report is not None
    cut_short = " (it was stopped before its end)" if now.state == "stopped" else ""
    for curve in state.report.curves:
        found = curve.suggestions
        title = "All groups" if curve.name == "all" else f"Group {curve.name}"
        if found.chosen is not None:
            alone = ", ".join("unclear" if one is None else f"{one:.3g}" for one in curve.by_seed)
            st.markdown(f"**{plain(title)}: factor {found.chosen:.4g}**, {found.why}. By seed: {alone}.")
        else:
            st.markdown(f"**{plain(title)}: {'not decided yet' if now.alive else found.why + cut_short}.**")
        st.altair_chart(
            charts.curve_chart(curve.name, curve.band, found.rates, found.chosen), height="content",
            alt=f"Loss over the factor on the learning rates, {title}",
        )  # fmt: skip
        with st.expander("As a table"):
            st.dataframe(curve.band, hide_index=True, alt="The curve's points")
    if state.steps.height:
        st.subheader("Short runs", anchor=False)
        st.altair_chart(charts.trial_chart(state.steps), alt="Loss of the short runs", height="content")
    if state.verdict is not None:
        (st.success if state.verdict.held else st.warning)(state.verdict.words)
    if state.rates:
        st.subheader("Rates for the next run", anchor=False)
        rows = [
            {"group": visible(name), "rate now": state.report.rates[name], "suggested": rate}
            for name, rate in state.rates.items()
        ]
        st.dataframe(rows, hide_index=True, alt="Learning rate of each group, now and as suggested")
