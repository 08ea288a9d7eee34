"""The Train page's parts: the settings, a job that runs, and what to do with what it made."""

import shlex
import statistics
import time
from collections.abc import Sequence

import streamlit as st

from nanochat import jobs, paths
from nanochat.analysis import train
from nanochat.analysis.train import CORPORA, KINDS, STAGE_TITLES, Follower, Plan, Progress, Settings
from nanochat.sft_tasks import ChatSFTError
from nanochat.tasks import TaskError
from nanochat.tasks.evaluation import TaskScore, compare
from nanochat.ui.figures import figures
from nanochat.ui.pickers import runs_by_id
from nanochat.ui.states import go_to
from nanochat.ui.text import plain, visible

PAGE = "train"
JOB_KEY = f"{PAGE}_job"  # of the choice, on the page and in the address
POINTS, LATE = 600, 50  # of the curve on the screen; updates whose median is the speed
MORE = {  # flag -> (what it is, placeholder): what base_train and chat_sft share and a beginner need not know
    "matrix-lr": ("Learning rate of the matrices", "0.02; as in pretraining for fine-tuning"),
    "device-batch-size": ("Rows a device takes at once", "chosen by size"),
    "total-batch-size": ("Tokens of one update", "chosen by time"),
    "save-minutes": ("Minutes between checkpoints", "only at the end"),
    "eval-every": ("Updates between evaluations", "chosen by time"),
}
OFTEN = 10  # readings of a conversation from which on it is said what that does
ANSWERS = 3  # of a split that are shown
LINKS = ("chat", "training_dashboard", "generation_explorer", "attention_visualizer", "checkpoint_browser")


@st.cache_resource(show_spinner="Measuring how fast this machine multiplies")
def machine_speed() -> float:
    """FLOP/s, measured once a server."""
    return train.probe()


def settings_form() -> Settings | None:
    """The settings as they stand; None where something is missing, which is said."""
    kind = st.segmented_control(
        "What",
        list(KINDS),
        default="demo",
        required=True,
        key=f"{PAGE}_kind",
        format_func=KINDS.__getitem__,
        bind="query-params",
        help="First model: a tokenizer, pretraining and fine-tuning in one go. Pretrain: a model that goes on with "
        "text. Fine-tune: teach a pretrained model to answer.",
    )
    kind = kind or "demo"
    left, right = st.columns(2)
    with left:
        minutes = st.slider("Minutes", 0.5, 60.0, 1.0, 0.5, key=f"{PAGE}_minutes", bind="query-params")
    with right:
        corpus, file = _corpus_input() if kind != "chat_sft" else ("stories", "")
        depth, base_tag, beside = 4, "", False
        if kind == "base_train":
            depth = st.slider("Depth, in layers", 1, 12, 4, key=f"{PAGE}_depth", bind="query-params",
                              help="The one dial: width, batch and rates follow from it.")  # fmt: skip
        elif kind == "chat_sft":
            chosen = _base_run()
            if chosen is None:
                return None
            base_tag = chosen
            file = st.text_input("Conversations (JSONL on this machine), empty for the built-in ones",
                                 key=f"{PAGE}_data", bind="query-params").strip()  # fmt: skip
            file = _or_upload(file, ["jsonl"], "conversations")
            if file:
                beside = st.toggle("The built-in conversations, too", key=f"{PAGE}_beside", bind="query-params",
                                   help="8,000 about itself, stories, spelling, counting and sums; a short file is "
                                   "lost among them.")  # fmt: skip
    tag, seed, flags = _more(kind)
    return Settings(kind, minutes, corpus, file, depth, tag, base_tag, seed, beside, flags)


def _corpus_input() -> tuple[str, str]:
    corpus = st.segmented_control(
        "Text", list(CORPORA), default="stories", required=True, key=f"{PAGE}_corpus", format_func=CORPORA.__getitem__,
        bind="query-params",
    )  # fmt: skip
    if corpus != "file":
        return corpus or "stories", ""
    path = st.text_input(
        "Its path on this machine (.txt, .jsonl, or a folder)", key=f"{PAGE}_file", persist_state="session"
    )
    return corpus, _or_upload(path, ["txt", "jsonl"], "upload")


def _or_upload(path: str, endings: list[str], name: str) -> str:
    """The path of a file: the one that was typed, else of an upload, which is kept for the training."""
    upload = st.file_uploader("Or upload one", type=endings, key=f"{PAGE}_{name}")
    if upload is None or path:
        return path
    from nanochat.ui.uploads import kept

    file = kept(upload, ".jsonl" if upload.name.lower().endswith(".jsonl") else ".txt")
    st.caption(f"Kept as {plain(str(file))}, where a resumed training finds it. Delete it when you need it no more.")
    return str(file)


def _base_run() -> str | None:
    tags = [run.tag for root, run in runs_by_id().values() if root.ours and run.stage == "base" and run.steps]
    if not tags:
        st.info("Fine-tuning starts from a pretrained model, and the workspace has none: pretrain one first.")
        return None
    return st.selectbox("Pretrained run", tags, key=f"{PAGE}_base", format_func=visible, bind="query-params")


def _more(kind: str) -> tuple[str, int, dict[str, str]]:
    """(tag, seed, flags) from what most people leave as it is."""
    with st.expander("More"):
        tag = st.text_input("Name of the run", key=f"{PAGE}_tag", placeholder="a free one", persist_state="session")
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, key=f"{PAGE}_seed", persist_state="session",
                               help="The same seed, the same start.")  # fmt: skip
        flags = {}
        if kind != "demo":
            for flag, (words, placeholder) in MORE.items():
                value = st.text_input(words, key=f"{PAGE}_{flag}", placeholder=placeholder, bind="query-params").strip()
                if value:
                    flags[flag] = value
            st.caption("In a terminal the command below takes more flags; --help lists them.")
    return tag.strip(), int(seed), flags


@st.cache_data(max_entries=8, show_spinner="Looking at the conversations")
def _reading(file: str, tag: str, changed: tuple[int, int]) -> train.Reading | str | None:
    """What the file holds, or why the training would refuse it; kept until the file or the run changes."""
    try:
        return train.reading(file, tag)
    except (TaskError, ChatSFTError) as refusal:
        return str(refusal)


def show_reading(settings: Settings, plan: Plan) -> None:
    """What a fine-tuning finds in its file, and how often it reads that; what it would refuse, before it does."""
    if settings.kind != "chat_sft" or not settings.file:
        return
    path, run = paths.expand(settings.file), paths.run_folder(paths.workspace(), "base", settings.base_tag)
    try:
        found = _reading(settings.file, settings.base_tag, (path.stat().st_mtime_ns, run.stat().st_mtime_ns))
    except OSError:  # one of them has just gone: the training says so
        return
    if isinstance(found, str):
        st.warning(plain(f"The training would end at its beginning: {found}"), icon=":material/warning:")
        go_to("dataset_inspector", "See every problem of it", {"dataset_inspector_path": str(path)})
    elif found is not None:
        st.markdown(" ".join(f"{sentence}." for sentence in _told(found, None if settings.beside else plan.tokens)))


def _told(found: train.Reading, tokens: int | None) -> list[str]:
    """A file in sentences. tokens: that the training will read of it; None where that is not known."""
    whole = found.learnt + found.unseen
    words = [f"{whole:,} conversation{'' if whole == 1 else 's'}"]
    if found.unseen:
        words[0] += f", {found.unseen:,} of them kept to ask afterwards"
    if found.tokens:
        words[0] += f", about {_short(found.tokens)} tokens in what it trains on"
        often = None if tokens is None else tokens / found.tokens
        if often is not None:
            words.append(f"In this time it reads each about {often:,.0f} times" if often >= 1.5 else
                         f"In this time it reads about {min(often, 1):.0%} of them")  # fmt: skip
        if often is not None and often >= OFTEN:
            words.append("So often, it learns them by heart: afterwards look at its answers to those not seen")
    if found.longer:
        words.append(f"About {found.longer:,} are longer than the {found.context:,} tokens that this "
                     "model sees, and are cut")  # fmt: skip
    return words


def show_plan(plan: Plan) -> bool:
    """What the settings come to, before the start; whether it may start, which replacing a run needs a yes for."""
    replaces = plan.facts["kind"] == "chat_sft" and any("--force" in command for command in plan.commands)
    agreed = True
    with st.container(border=True):
        figures(
            ("Parameters", "not known" if plan.parameters is None else f"{plan.parameters:,}"),
            (
                "Tokens, about",
                "not known" if plan.tokens is None else _short(plan.tokens),
                "By how fast this machine multiplies. Where other programs use it meanwhile, it will be fewer.",
            ),
            ("Time, about", _clock(plan.seconds)),
        )
        if replaces:
            folder = paths.run_folder(paths.workspace(), "sft", plan.tag)
            st.warning(
                f"A fine-tuned run is in {plain(str(folder))}, and this one would replace it from its first moment on. "
                "To keep it, give this one another name, under More.",
                icon=":material/warning:",
            )
            agreed = st.checkbox("Replace it", key=f"{PAGE}_replace_{plan.tag}")
        shell = plan.shell if agreed else plan.shell.replace(" --force", "")
        st.code(visible_lines(shell.split("\n")), language=None, wrap_lines=True)
    return agreed


def _short(number: float) -> str:
    """Two digits that count, in words of size.

    >>> _short(1_234_567)
    '1.2 million'
    """
    for size, word in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if number >= size:
            value = number / size
            return f"{value:.0f}{word}" if word == ",000" else f"{value:.1f}{word}"
    return f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def follower(job: jobs.Job) -> Follower:
    """The reader of this job's log, kept while this tab lives, so that each look costs what is new."""
    kept = st.session_state.get(f"{PAGE}_follower")
    if not isinstance(kept, Follower) or kept.job.id != job.id:
        kept = st.session_state[f"{PAGE}_follower"] = Follower(job)
    return kept


def show_job(job: jobs.Job) -> None:
    """A job as it stands: bar, figures, curve, what the model writes. Draws itself again each second while it lives."""
    alive = jobs.status(job).alive
    st.fragment(_draw_job, run_every="1s" if alive else None)(job, alive)


def _draw_job(job: jobs.Job, was_alive: bool) -> None:
    now = jobs.status(job)
    progress = follower(job).look()
    if was_alive and not now.alive:
        st.rerun()  # the whole page: it offers other things now
    with st.container(border=True):
        st.subheader(plain(f"{job.title}: {job.facts.get('tag', '')}"), anchor=False)
        if now.alive:
            _bar(job, progress)
        _curve(progress)
        _samples(progress)
        if now.alive:
            _stop_buttons(job)
        else:
            _ending(job, now, progress)
        with st.expander("Its log"):
            st.code(visible_lines(progress.lines[-40:]) or "nothing yet", language=None, wrap_lines=True)


def visible_lines(lines: Sequence[str]) -> str:
    """Lines of a log or a command, harmless."""
    return "\n".join(visible(line) for line in lines)


def _bar(job: jobs.Job, progress: Progress) -> None:
    total = float(job.facts.get("seconds") or 60.0)
    gone = time.time() - job.begun
    time_left = f"{_clock(total - gone)} left" if gone < total else f"{_clock(gone - total)} longer than thought"
    st.progress(min(gone / total, 1.0), text=f"{progress.title or 'Starting'}, {time_left}")


def _curve(progress: Progress) -> None:
    curve = progress.curve
    if not len(curve):
        return
    import polars as pl

    from nanochat.charts import in_place
    from nanochat.charts.train import bpb_curve, loss_curve

    trained = curve.filter(pl.col("smooth").is_not_null())  # the last record of a stage has no batch, so no loss
    last = (trained if len(trained) else curve).row(-1, named=True)
    stage = STAGE_TITLES.get(last["stage"], "").lower()
    speeds = curve.filter(pl.col("stage") == last["stage"])["speed"].drop_nulls().tail(LATE).to_list()
    known = curve.filter(pl.col("bpb").is_not_null() & (pl.col("stage") == curve["stage"][0]))
    bpb = None if known.is_empty() else known["bpb"][-1]
    so_far = None if bpb is None or progress.report else f"{bpb:.4f}"
    figures(
        (f"Updates, {stage}", f"{last['step'] + (last['smooth'] is not None):,}", "The first is step 0 of the curve."),
        (
            "Loss, smoothed",
            last["smooth"] and f"{last['smooth']:.3f}",
            "Nats a token, a mean of about the last ten updates: where the loss falls fast it lags behind.",
        ),
        (
            "Tokens a second",
            f"{statistics.median(speeds):,.0f}" if speeds else None,
            f"The median of the last {LATE} updates.",
        ),
        *(
            [("Bits a byte, so far", so_far, f"On text that is new to it, at update {known['step'][-1]:,}.")]
            if so_far
            else []
        ),
    )
    thin = train.thinned(curve, POINTS)
    chart = in_place(loss_curve(thin, progress.uniform, progress.floor_nats))
    st.vega_lite_chart(spec=chart, alt="Training loss over time", height="content")
    st.caption("The thin line has every update, the bold one their running mean.")
    if len(known) > 1:
        with st.expander("Bits a byte on new text"):
            st.altair_chart(bpb_curve(known, progress.floor), alt="Bits a byte at each evaluation", height="content")
    with st.expander("As a table"):
        st.dataframe(thin.tail(50), hide_index=True, alt="The last updates")


def _samples(progress: Progress) -> None:
    if progress.samples and progress.report is None:  # the report shows what the finished model says
        step, text = progress.samples[-1]
        st.markdown(f"**It writes, after {step:,} updates:**")
        st.text(visible(text))


def _stop_buttons(job: jobs.Job) -> None:
    gentle, hard, _ = st.columns([2, 2, 4])
    asked = f"{PAGE}_asked_{job.id}"
    if gentle.button("Stop and save", key=f"{PAGE}_stop", disabled=asked in st.session_state):
        jobs.stop(job)
        st.session_state[asked] = True
        st.rerun(scope="fragment")
    if asked in st.session_state and hard.button("End at once", key=f"{PAGE}_kill", help="What is not saved is lost."):
        jobs.stop(job, force=True)


def _ending(job: jobs.Job, now: jobs.Status, progress: Progress) -> None:
    """How it ended, and where to go from here."""
    if now.state in ("failed", "lost"):
        words = {"failed": "It failed.", "lost": "It ended without a word: it was killed, or the machine was."}
        st.error(words[now.state], icon=":material/error:")
        if progress.lines:
            st.text(visible(progress.lines[-1]))
        st.button("Back to the settings", key=f"{PAGE}_back", icon=":material/arrow_back:", on_click=_show_settings)
        return
    if progress.report is not None:
        _report(progress.report)
    if progress.scores:
        _scores(progress.scores)
    st.markdown("**Stopped; what it had was saved.**" if now.state == "stopped" else "**Done. Now look inside:**")
    tag, stages = str(job.facts.get("tag", "")), job.facts.get("stages") or ["base"]
    if now.state == "stopped":  # perhaps before the last stage began
        stages = [one for one in stages if paths.run_folder(paths.workspace(), one, tag).is_dir()] or stages[:1]
    stage = stages[-1]
    if any(later.facts.get("stages", [])[-1:] == [stage] and later.facts.get("tag") == tag and later.begun > job.begun
           for later in jobs.all_jobs(KINDS)):  # fmt: skip
        st.caption("A later training has taken this one's name, so the links lead to its model.")
    with st.container(horizontal=True):
        for stem in LINKS:
            # A demo's longest curve, and the floor under it, are pretraining's.
            shown = stages[0] if stem == "training_dashboard" else stage
            go_to(stem, query={f"{stem}_run": f"{shown}/{tag}"})
        if now.state == "stopped" and job.facts.get("kind") != "demo":  # which runs in one go
            go_to("training_resume_helper", query={"training_resume_helper_run": f"{stage}/{tag}"})
        go_to("tokenizer_playground", query={"tokenizer_playground_tokenizer": f"{stage}/{tag}"})
    st.code(visible(shlex.join(["nanochat", "chat_cli", "-i", stage, "-g", tag])), language=None)


def _scores(scores: Sequence[TaskScore]) -> None:
    """What a fine-tuned model answers: what it was shown beside what it was not, and some answers to read."""
    st.markdown("**Asked afterwards, right answers:**")
    st.caption("It gave its likeliest answers. Chat draws at random, unless you set the temperature to 0 there.")
    rows = compare(scores)
    table = [
        {"conversations": visible(row.name), "seen in training": str(row.seen or "none"),
         "not seen": str(row.unseen or "none")}
        for row in rows
    ]  # fmt: skip
    st.dataframe(table, hide_index=True, alt="Right answers, seen and unseen")
    for row in rows:
        st.text(visible(f"{row.name}: {row.meaning}"))
    with st.expander("Some answers", expanded=len(table) == 1):
        for score in scores:
            for one in score.examples[:ANSWERS]:
                mark = ":material/check:" if one.right else ":material/close:"
                seen = "seen" if score.split == "train" else "not seen"
                st.caption(f"{mark} {seen}")
                st.text(f"Asked: {visible(one.question)}\nIt says: {visible(one.reply) or '(nothing)'}"
                        + ("" if one.right else f"\nThe data set says: {visible(one.expected)}"))  # fmt: skip


def _show_settings() -> None:
    st.session_state[JOB_KEY] = ""


def _report(report: object) -> None:
    """The demo's figures, each with its meaning."""
    if not isinstance(report, dict):
        return
    writing = report.get("writing") or {}
    floor = report.get("floor")
    figures(
        ("Bits a byte, judged", f"{report['val_bpb']:.4f}", "Of new texts, each read alone from its beginning."),
        *([] if floor is None else [("The floor", f"{floor:.4f}", "No model gets below it.")]),
        ("A 5-gram model", f"{report['ngram_bpb']:.4f}", "That counts which tokens follow which four."),
        *([("Stories all right, of 100", str(writing["accepted"]))] if writing else []),
    )
    for question, answer in report.get("answers") or ():
        st.text(visible(f"{question}  {answer}"))
