"""The resume helper's proof and drill on the page: background jobs, so that a reload or a second tab shows the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat import jobs
from nanochat.errors import is_message
from nanochat.ui.errors import show_problem
from nanochat.ui.text import plain, visible

if TYPE_CHECKING:
    from nanochat.analysis import training_resume_helper as helper

PAGE = "training_resume_helper"
ANSWERS = {
    "right": "Right: the last step whose files are complete. What came after it was in memory alone, and is gone.",
    "wrong": "Not that one: go on from the last step that is on the disk whole, and lose as little as can be.",
}


def key(name: str) -> str:
    """A widget's key, with the page's name in front."""
    return f"{PAGE}_{name}"


def show_proof(report: helper.Report) -> None:
    """Resume in a scratch folder, compare, draw."""
    from nanochat.analysis import training_resume_helper as helper

    st.markdown("Goes on from this checkpoint in a scratch folder and lays the losses over those that the run had.")
    job = helper.newest(helper.PROOF, folder=str(report.folder.absolute()), step=report.step)
    if job is not None and jobs.status(job).alive:
        _watched(job, "Loading the model and its text")
        return
    steps = st.slider("Updates", 1, 50, 10, key=key("steps"), bind="query-params")
    again = job is not None
    if st.button("Prove it again" if again else "Prove it", type="secondary" if again else "primary",
                 icon=":material/fact_check:", key=key("prove")):  # fmt: skip
        _begun(lambda: helper.proof_job(report, steps), "There is no proof.")
    elif job is not None:
        told = helper.told(job)
        st.caption(f"Begun {time.strftime('%d %B, %H:%M:%S', time.localtime(job.begun))}.")
        if told.proof is None:
            _broken_off(job, told)
        else:
            _verdict(told.proof)


def _verdict(proof: helper.Proof) -> None:
    from nanochat.charts.training_resume_helper import overlay

    (st.success if proof.holds else st.error)(visible(proof.sentence))
    st.altair_chart(overlay(proof.before, proof.frame), alt="The run and its resumed copy", height="content")
    with st.expander("As a table"):
        st.dataframe(proof.frame, hide_index=True, alt="Losses of the run and of its resumed copy")
    st.code(visible(proof.command), language=None, wrap_lines=True)


def drill() -> None:
    """Kill a training and recover it, with a question in between."""
    from nanochat.analysis import training_resume_helper as helper

    st.subheader("The drill: kill it, now recover", anchor=False)
    st.markdown("A small training is killed without warning in a scratch folder. It takes half a minute.")
    job = helper.newest(helper.DRILL)
    alive = job is not None and jobs.status(job).alive
    if not alive and st.button("Train and kill", icon=":material/bolt:", key=key("kill")):
        _begun(helper.drill_job, "There is no drill.")
        return
    if job is None:
        return
    recovers = job.facts.get("part") == "recover"
    for scene in helper.told(_before(job) if recovers else job).scenes:
        st.markdown(f"**{plain(scene['title'])}.** {plain(scene['sentence'])}")
    if alive:
        _watched(job, "Going on" if recovers else "Making a tokenizer")
        return
    told = helper.told(job)
    cut = next((scene for scene in told.scenes if scene["step"] is not None), None)
    if cut is None:
        _broken_off(job, told)
    elif recovers:
        _recovered(cut)
    else:
        _question(job, cut)


def _before(job: jobs.Job) -> jobs.Job:
    """The job whose training this one recovers; itself where that is gone."""
    try:
        return jobs.find(str(job.facts.get("after")))
    except jobs.JobError:
        return job


def _question(job: jobs.Job, cut: Mapping[str, Any]) -> None:
    """Which step does it go on from? Whoever knows may recover it."""
    from nanochat.analysis import training_resume_helper as helper

    step = int(cut["step"])
    options = [0, step - 20, step, step + int(cut["lost"] or 0)]
    answer = st.radio(
        "Which step does it go on from?", options, None, key=key("answer"), horizontal=True,
        format_func=lambda at: "from the beginning" if at == 0 else f"step {at}",
    )  # fmt: skip
    if answer is None:
        return
    if answer != step:
        st.warning(ANSWERS["wrong"])
        return
    st.success(ANSWERS["right"])
    if st.button("Recover", type="primary", icon=":material/restart_alt:", key=key("recover")):
        _begun(lambda: helper.drill_job(job), "It cannot be recovered.")


def _recovered(scene: Mapping[str, Any]) -> None:
    st.code("nanochat base_train --model-tag drill --resume", language=None, wrap_lines=True)
    (st.success if scene["holds"] else st.error)(visible(f"{scene['title']}. {scene['sentence']}"))
    st.dataframe(scene["frame"], hide_index=True, alt="Losses that were computed twice")


def _begun(start: Callable[[], jobs.Job], headline: str) -> None:
    """Start a job and draw the page anew, or say why it cannot be."""
    try:
        start()
    except Exception as error:
        if not is_message(error):
            raise
        show_problem(headline, str(error))
        return
    st.rerun()


def _watched(job: jobs.Job, at_first: str) -> None:
    """How far a job is, drawn anew each second until it ends; then the whole page, which has a result to show."""

    def draw() -> None:
        from nanochat.analysis import training_resume_helper as helper

        if not jobs.status(job).alive:
            st.rerun()
        again = helper.told(job).again
        if again is None:
            st.progress(0.0, text=f"{at_first}, {time.time() - job.begun:.0f} s")
        else:
            st.progress(min(again.done / max(again.of, 1), 1.0), text=f"Update {again.done} of {again.of}")
        asked = f"{PAGE}_asked_{job.id}"
        if st.button("Stop", key=key(f"stop_{job.id}"), disabled=asked in st.session_state):
            try:
                jobs.stop(job)
            except jobs.JobError as error:
                st.info(plain(str(error)))
            else:
                st.session_state[asked] = True
        st.caption("It goes on if you close this page; come back and it is here.")

    st.fragment(draw, run_every="1s")()


def _broken_off(job: jobs.Job, told: helper.Told) -> None:
    """A job that ended without a result."""
    state = jobs.status(job).state
    if state == "stopped":
        st.info("It was stopped. The run itself was only read.")
    else:
        gone = "It ended without a word: it was killed, or the machine was."
        show_problem("It broke off.", told.lines[-1] if told.lines and state != "lost" else gone)
