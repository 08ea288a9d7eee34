"""Train: a first model, pretraining or fine-tuning, as a background job that this page starts, shows and stops."""

import time

import streamlit as st

from nanochat import jobs
from nanochat.analysis import train
from nanochat.analysis.train import KINDS, TrainError
from nanochat.checkpoint_files import CheckpointError
from nanochat.jobs import JobError
from nanochat.paths import TagError
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.shell import heading
from nanochat.ui.text import plain, visible
from nanochat.ui.train import JOB_KEY, PAGE, machine_speed, settings_form, show_job, show_plan, show_reading

REFUSALS = (TrainError, TagError, JobError, CheckpointError)  # sentences for the person who chose


def _job_picker(known: list[jobs.Job]) -> jobs.Job | None:
    """The job to show: the one in the address, else one that runs. The address has its id, the screen its title."""
    by_id = {job.id: job for job in known}
    if JOB_KEY not in st.session_state:
        running = next((job.id for job in known if jobs.status(job).alive), "")
        asked = st.query_params.get(JOB_KEY, running)
        st.session_state[JOB_KEY] = asked if asked in by_id else ""
    chosen = st.selectbox(
        "Trainings",
        ["", *by_id],
        key=JOB_KEY,
        format_func=lambda job_id: visible(_label(by_id[job_id])) if job_id else "a new one",
    )
    if chosen:
        st.query_params[JOB_KEY] = chosen
    else:
        st.query_params.pop(JOB_KEY, None)
    return by_id.get(chosen or "")


def _label(job: jobs.Job) -> str:
    return (
        f"{job.title}: {job.facts.get('tag', '')}, begun {time.strftime('%d %B, %H:%M:%S', time.localtime(job.begun))}"
    )


def _new() -> None:
    """Settings, what they come to, and the button."""
    settings = settings_form()
    if settings is None:
        return
    try:
        plan = train.plan(settings, machine_speed())
    except REFUSALS as refusal:
        st.warning(plain(str(refusal)), icon=":material/warning:")
        return
    agreed = show_plan(plan)
    show_reading(settings, plan)
    if st.button("Start", type="primary", icon=":material/play_arrow:", key=f"{PAGE}_start", disabled=not agreed):
        try:
            job = jobs.start(KINDS[settings.kind], plan.commands, plan.facts)
        except REFUSALS as refusal:
            st.error(plain(str(refusal)), icon=":material/error:")
            return
        st.session_state[f"{PAGE}_next"] = job.id
        st.rerun()


def main() -> None:
    """Draw the page."""
    heading(PAGE, "Train a model on this machine. It goes on if you close this page; come back and it is here.")
    started = st.session_state.pop(f"{PAGE}_next", None)
    if started is not None:
        st.session_state[JOB_KEY] = started
    with errors_as_sentences("looking at the trainings"):
        known = jobs.all_jobs(KINDS)
        job = _job_picker(known) if known else None
        if job is None:
            _new()
        else:
            show_job(job)


main()
