"""What pages let a person choose: a base dir, a run, a checkpoint. The choice is in the address, so a view is a link.

A checkpoint's id is `stage/tag@step`, behind `root:` where it is not in our workspace: `sft/demo@120`,
`nanochat:base/d12@4000`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from nanochat.checkpoint_runs import Run, find_runs
from nanochat.paths import Root, expand, folder_problem, roots
from nanochat.ui.states import nothing_yet
from nanochat.ui.text import plain, visible

LAST_RUN = "last_run"  # in the session: what another page worked with, so that this one begins with it
STAGES = {"base": "pretrained", "mid": "mid-trained", "sft": "fine-tuned", "rl": "after RL"}


@dataclass(frozen=True)
class Checkpoint:
    """One step of one run, by its id."""

    id: str
    root: Root
    run: Run
    step: int

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.run.folder


def run_id(root: Root, run: Run) -> str:
    """How a run is called in an address: `stage/tag`, or `root:stage/tag` outside our workspace."""
    name = f"{run.stage}/{run.tag}" if run.folder.parent.name != "sft_checkpoints" else f"{run.stage}/old/{run.tag}"
    return name if root.ours else f"{root.name}:{name}"


def known_roots(extra: str | None = None) -> list[Root]:
    """Both roots, and a third folder that the person has named."""
    places = roots()
    if extra:
        path = expand(extra).absolute()
        if all(place.path != path for place in places):
            places.append(Root("folder", path, False, ""))
    return places


def base_dir_input(page: str) -> str | None:
    """A field for a folder that is none of the two roots; the same on every page. None where it is empty.

    page: the page's stem, for the widget's key.
    """
    with st.popover("Another folder", icon=":material/folder_open:"):
        named = st.text_input(
            "A nanochat base dir on this machine",
            key=f"{page}_base_dir",
            placeholder="/path/to/nanochat",
            help="It is only read. The folder that holds base_checkpoints, chatsft_checkpoints, ...",
            persist_state="session",
        )
        problem = folder_problem(expand(named)) if named else None
        if named and problem is None and not expand(named).is_dir():
            problem = "it does not exist"
        if problem is not None:
            st.error(f"This folder cannot be used: {problem}.", icon=":material/error:")
            return None
    return named or None


@st.cache_data(ttl="5s", max_entries=16, show_spinner="Looking for runs")
def _runs(folders: tuple[str, ...]) -> list[tuple[str, list[Run]]]:
    """The runs of each folder, kept for some seconds so that a slider does not read the disk."""
    return [(folder, find_runs(folder) if folder_problem(Path(folder)) is None else []) for folder in folders]


def runs_by_id(extra: str | None = None) -> dict[str, tuple[Root, Run]]:
    """Every run that has a name, by its id, in the roots' order."""
    places = known_roots(extra)
    found = _runs(tuple(str(place.path) for place in places))
    return {
        run_id(root, run): (root, run) for root, (_, runs) in zip(places, found, strict=True) for run in runs if run.tag
    }


def pick_run(
    page: str, *, stages: tuple[str, ...] = tuple(STAGES), extra: str | None = None, talking: bool = False
) -> tuple[Root, Run] | None:
    """A run with at least one complete checkpoint; None, and an explanation on the page, where there is none.

    talking: begin with one that has learnt to answer, if there is any.
    """
    fitting = {name: pair for name, pair in runs_by_id(extra).items() if pair[1].steps and pair[1].stage in stages}
    if not fitting:
        wanted = " or ".join(STAGES[stage] for stage in stages) if len(stages) < len(STAGES) else "trained"
        nothing_yet("No model yet", f"This page opens a {wanted} model, and there is none.", "nanochat demo")
        return None
    box, picked = f"{page}_run", f"{page}_picked"
    # What this page worked with before, or what the address asked for; the box forgets a run that is not there.
    before = st.session_state.get(picked, st.query_params.get(box))
    first = _first(fitting, talking)
    if st.session_state.get(box) is None and box not in st.query_params:
        st.session_state[box] = first
    name = st.selectbox(
        "Run",
        list(fitting),
        None,  # no default, so that the address names the run even where nobody chose it: a new run would be another
        key=box,
        format_func=visible,  # the address holds what is shown, so what is shown is the id
        bind="query-params",
    ) or first  # fmt: skip
    st.caption(STAGES[fitting[name][1].stage])
    known = {visible(one) for one in fitting} | set(fitting)
    if before is not None and before not in known:
        st.session_state[picked] = before
        st.warning(f"The run {plain(before)} is not there. Choose one above.", icon=":material/warning:")
        if not st.button(f"Go on with {plain(name)}", key=f"{page}_go_on"):
            return None
    st.session_state[picked] = st.session_state[LAST_RUN] = name
    return fitting[name]


def _first(fitting: dict[str, tuple[Root, Run]], talking: bool) -> str:
    """The run that a page begins with: the one that another page worked with, else one of ours."""
    last = st.session_state.get(LAST_RUN)
    if last in fitting and not (talking and fitting[last][1].stage == "base"):
        return str(last)
    rank = ("base", "mid", "sft", "rl") if talking else ()
    return max(fitting, key=lambda name: (fitting[name][0].ours, talking and rank.index(fitting[name][1].stage)))


def pick_checkpoint(
    page: str, *, stages: tuple[str, ...] = tuple(STAGES), extra: str | None = None, talking: bool = False
) -> Checkpoint | None:
    """A run and one of its steps, the last unless another is chosen. None, and an explanation, where there is none."""
    picked = pick_run(page, stages=stages, extra=extra, talking=talking)
    if picked is None:
        return None
    root, run = picked
    newest_first = list(reversed(run.steps))
    step = (
        st.selectbox("Step", newest_first, key=f"{page}_step", bind="query-params") if len(newest_first) > 1 else None
    )
    step = newest_first[0] if step is None else step
    return Checkpoint(f"{run_id(root, run)}@{step}", root, run, step)


def pick_view(page: str, views: Sequence[str], first: str | None = None) -> str:
    """One of a page's views, in the address; `first` to begin with, else the first of them."""
    return st.segmented_control(
        "View",
        views,
        default=views[0] if first is None else first,
        required=True,
        key=f"{page}_view",
        bind="query-params",
        label_visibility="collapsed",
    )
