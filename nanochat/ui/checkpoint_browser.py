"""The checkpoint browser's views: the list, one checkpoint looked into, and what of a run could be deleted.

pages/checkpoint_browser.py draws one of them; comparing two is in checkpoint_browser_compare.py.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import streamlit as st

from nanochat import paths
from nanochat.analysis import checkpoint_browser as browser
from nanochat.analysis.checkpoint_browser import INTEGRITY, BrowserError, Inspection, Listing, Reference, Rule
from nanochat.checkpoint_files import CheckpointError
from nanochat.paths import Root, readable_size
from nanochat.ui.figures import figures
from nanochat.ui.pickers import STAGES, pick_checkpoint
from nanochat.ui.states import go_to
from nanochat.ui.text import plain, visible

PAGE = "checkpoint_browser"
REFUSALS = (BrowserError, CheckpointError)  # sentences for the person who asked
ROWS = 2000  # of the table at once; more make the page slow
LINKS = ("chat", "generation_explorer", "attention_visualizer", "training_dashboard", "training_resume_helper")


@st.cache_data(max_entries=8, show_spinner="Reading what the checkpoints say")
def _listed(roots: tuple[tuple[str, str, bool], ...], stamp: tuple[tuple[str, int], ...]) -> Listing:
    """stamp: every run's folder with the time of its last change."""
    return browser.list_checkpoints([Root(name, Path(path), ours, "") for name, path, ours in roots])


def listed(roots: Sequence[Root]) -> Listing:
    """All checkpoints below the roots, read again when a folder has changed."""
    from nanochat.analysis.checkpoint_browser.listing import run_folders

    stamp = []
    for root in roots:
        for _, folder, _ in run_folders(root.path):
            try:
                stamp.append((str(folder), folder.stat().st_mtime_ns))
            except OSError:
                stamp.append((str(folder), 0))
    return _listed(tuple((root.name, str(root.path), root.ours) for root in roots), tuple(stamp))


def problems(found: Listing) -> None:
    """What is not in the table, and why."""
    for sentence in found.problems[:20]:
        st.warning("Something could not be listed.", icon=":material/warning:")
        st.text(visible(sentence))


def draw_list(found: Listing, roots: Sequence[Root]) -> None:
    """The table, what takes the disk, and the row that is chosen."""
    left, right = st.columns(2)
    sort = left.selectbox("Sort by", browser.SORTS, key=f"{PAGE}_sort", bind="query-params")
    stages = right.multiselect(
        "Stage", list(STAGES), key=f"{PAGE}_stages", format_func=STAGES.__getitem__, placeholder="all of them"
    )
    rows = browser.sort_rows(found.frame, sort or "modified")
    rows = rows.filter(pl.col("stage").is_in(stages)) if stages else rows
    bad = rows.filter(pl.col("cause") != "")
    figures(
        ("Checkpoints", f"{len(rows):,}"),
        ("On disk", readable_size(int(rows["size"].sum()))),
        ("Broken or incomplete", f"{len(bad):,}"),
    )
    _table(rows.head(ROWS), roots)
    if len(rows) > ROWS:
        st.caption(f"The first {ROWS:,} of {len(rows):,}; sort or choose a stage to see others.")
    problems(found)
    with st.expander("What the words under integrity mean"):
        for word, meaning in INTEGRITY.items():
            st.markdown(f"**{word}**: {meaning}.")
    st.subheader("What takes the disk", anchor=False)
    use = browser.disk_use(rows).with_columns(pl.col("run").map_elements(visible, pl.String))
    from nanochat.charts.checkpoint_browser import disk_chart

    runs = min(use["run"].n_unique(), 20)
    st.altair_chart(disk_chart(use).properties(height=26 * runs + 60), alt="Disk use by run", width="stretch")
    with st.expander("As a table"):
        st.dataframe(use.to_dicts(), hide_index=True, alt="Disk use by run and kind of file")


def _table(rows: pl.DataFrame, roots: Sequence[Root]) -> None:
    shown = rows.select(
        pl.col("id").map_elements(visible, pl.String).alias("Checkpoint"),
        pl.col("val_bpb").alias("Val BPB"),
        pl.col("layers").alias("Layers"),
        pl.col("dim").alias("Dim"),
        (pl.col("size") / 1e6).alias("Size (MB)"),
        pl.col("optim").alias("Optim"),
        pl.col("integrity").alias("Integrity"),
        pl.col("modified").alias("Modified"),
        pl.col("cause").map_elements(visible, pl.String).alias("Cause"),
    )
    picked = st.dataframe(
        shown,
        key=f"{PAGE}_table",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        alt="All checkpoints",
        column_config={
            "Val BPB": st.column_config.NumberColumn(format="%.4f", help="bits a byte on new text: less is better"),
            "Size (MB)": st.column_config.NumberColumn(format="%.1f"),
            "Optim": st.column_config.CheckboxColumn(help="its optimizer was saved, so training can go on"),
            "Modified": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
        },
    )
    chosen = picked.selection.rows
    if not chosen or chosen[0] >= len(rows):
        st.caption("Select a row to look into it.")
        return
    row = rows.row(chosen[0], named=True)
    _inspected(Reference(row["id"], row["stage"], Path(row["folder"]), row["step"]))


def draw_inspect(extra: str | None) -> None:
    """One complete checkpoint, by its id in the address."""
    picked = pick_checkpoint(PAGE, extra=extra)
    if picked is not None:
        _inspected(Reference(picked.id, picked.run.stage, picked.folder, picked.step))


def stamp_of(one: Reference) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of a step's files, so that what changed is read again."""
    stamp = []
    for path in sorted(one.folder.glob(f"*_{one.step:06d}*")):
        try:
            status = path.stat()
            stamp.append((path.name, status.st_mtime_ns, status.st_size))
        except OSError:
            stamp.append((path.name, 0, 0))
    return tuple(stamp)


@st.cache_data(max_entries=32, show_spinner="Opening the files")
def inspected(one: Reference, stamp: tuple[tuple[str, int, int], ...], full: bool = False) -> Inspection:
    """An inspection, kept until a file changes."""
    return browser.inspect(one, full)


def _inspected(one: Reference) -> None:
    full = bool(st.session_state.get(f"{PAGE}_full_{one.id}"))
    seen = inspected(one, stamp_of(one), full)
    with st.container(border=True):
        st.subheader("Checkpoint", anchor=False)
        st.code(visible(one.id), language=None)
        _integrity(seen, full)
        known = [figure for figure in seen.figures if figure.value is not None][:4]
        figures(*((one.name, f"{one.value:,.6g}", f"{one.unit}, from {plain(one.source)}") for one in known))
        if seen.era:
            st.markdown(f"**{seen.era}**, {seen.counts['total']:,} parameters. How that was recognised:")
            for reason in seen.reasons:
                st.text(f"• {visible(reason)}")
        tables = st.tabs(["Architecture", "Parameters", "Figures", "Files", "Tensors"])
        with tables[0]:
            config = seen.config or seen.meta.get("model_config") or {}
            _frame([{"field": name, "value": visible(str(value))} for name, value in config.items()], "Architecture")
        with tables[1]:
            total = max(seen.counts.get("total", 1), 1)
            counts = [{"part": k, "parameters": v, "share": v / total} for k, v in seen.counts.items() if v]
            _frame(counts, "Parameters by part", {"share": st.column_config.NumberColumn(format="percent")})
        with tables[2]:
            rows = [
                {"figure": f.name, "value": f.value, "unit": f.unit, "from": visible(f.source)} for f in seen.figures
            ]
            _frame(rows, "What was measured")
        with tables[3]:
            st.code(visible(str(one.folder)), language=None, wrap_lines=True)
            _frame(seen.files.to_dicts(), "Files of this step")
        with tables[4]:
            _frame(seen.tensors.to_dicts(), "Tensors of the model")
        if seen.verification.ok:
            _export(one)
            with st.container(horizontal=True):
                for stem in LINKS:
                    go_to(stem, query={f"{stem}_run": one.run, f"{stem}_step": str(one.step)})


def _frame(rows: list[dict], alt: str, columns: dict | None = None) -> None:
    if rows:
        st.dataframe(rows, hide_index=True, alt=alt, column_config=columns)
    else:
        st.caption("Its files do not tell.")


def _integrity(seen: Inspection, full: bool) -> None:
    checked = seen.verification
    if checked.ok:
        st.success(f"Sound: {checked.level}.", icon=":material/verified:")
    else:
        st.error("Not sound: do not go on with it.", icon=":material/error:")
        for problem in checked.problems:
            st.text(visible(problem))
    if not full and st.button(
        "Verify every byte", key=f"{PAGE}_verify", icon=":material/fact_check:", help="About 2 seconds for a GB."
    ):
        st.session_state[f"{PAGE}_full_{seen.reference.id}"] = True
        st.rerun()


def _export(one: Reference) -> None:
    with st.expander("Export to safetensors"):
        target = paths.workspace() / "exports" / f"{one.folder.name}-{one.stage or 'model'}-{one.step}"
        st.markdown("Weights that other programs open, every field of the architecture, and a model card. It goes to:")
        st.code(visible(str(target)), language=None, wrap_lines=True)
        if st.button("Export", key=f"{PAGE}_export", icon=":material/ios_share:"):
            try:
                with st.spinner("Verifying and writing"):
                    done = browser.export(one, target, overwrite=True)
            except REFUSALS as refusal:
                st.error("It was not exported.", icon=":material/error:")
                st.text(visible(str(refusal)))
                return
            st.success(f"Written: {', '.join(f'{name} ({readable_size(size)})' for name, size in done.files)}.")
            for note in done.notes:
                st.caption(plain(note))
            st.code((target / "README.md").read_text(encoding="utf-8"), language="markdown")


def draw_tidy(roots: Sequence[Root]) -> None:
    """A rule, what it would delete, and the button that does it; only in our workspace or a folder that was named."""
    from nanochat.analysis.checkpoint_browser.listing import run_folders
    from nanochat.analysis.checkpoint_browser.names import folder_name

    folders = {
        folder_name(root, stage, folder): (root, folder)
        for root in roots
        for stage, folder, problem in run_folders(root.path)
        if not problem
    }
    name = st.selectbox("Run", list(folders), key=f"{PAGE}_tidy", format_func=visible, bind="query-params")
    if name is None:
        return
    root, folder = folders[name]
    columns = st.columns(2)
    last = columns[0].number_input("Keep the last", 0, 1000, 1, key=f"{PAGE}_last")
    every = columns[1].number_input("Keep every step that this divides, 0: none", 0, 10**9, 0, key=f"{PAGE}_every")
    best = columns[0].checkbox("Keep the best by val_bpb", True, key=f"{PAGE}_best")
    broken = columns[1].checkbox("Delete incomplete ones as well", False, key=f"{PAGE}_incomplete")
    said = st.session_state.pop(f"{PAGE}_deleted", None)
    if said:
        st.success(said, icon=":material/delete:")
    try:
        plan = browser.plan(folder, Rule(int(last), best, int(every), broken))
    except REFUSALS as refusal:
        st.warning("This rule deletes nothing.", icon=":material/warning:")
        st.text(visible(str(refusal)))
        return
    st.markdown(f"**{plan.sentence}**")
    for note in plan.notes:
        st.caption(note)
    fates = {step: {"": "stays", "why": reason, "frees": ""} for step, reason in plan.kept}
    for step in plan.go:
        fates[step] = {"": "goes", "why": "", "frees": readable_size(plan.size_of(step))}
    st.dataframe(
        [{"step": step, **fates[step]} for step in sorted(fates)], hide_index=True, alt="What stays and what goes"
    )
    if not plan.go:
        return
    with st.expander(f"The {len(plan.files)} files that would go"):
        st.dataframe([{"name": file, "bytes": size} for file, size in plan.files], hide_index=True, alt="Files")
    if not root.ours:
        st.info("This folder is nanochat's own, and this app only reads it. In a terminal, named by you:")
        flags = ["nanochat", "checkpoint_browser", "--base-dir", str(root.path), "--delete", name.partition(":")[2]]
        flags += ["--keep-last", str(last), "--keep-every", str(every)]
        flags += ["--no-keep-best"] * (not best) + ["--incomplete"] * broken + ["--yes"]
        st.code(visible(shlex.join(flags)), language=None, wrap_lines=True)
        return
    sure = st.checkbox("I have read the list", key=f"{PAGE}_sure")
    if st.button(
        f"Delete {len(plan.go)} checkpoints", key=f"{PAGE}_delete", disabled=not sure, icon=":material/delete:"
    ):
        try:
            freed = browser.carry_out(plan)
        except REFUSALS as refusal:
            st.error("Nothing was deleted.", icon=":material/error:")
            st.text(visible(str(refusal)))
            return
        st.session_state[f"{PAGE}_deleted"] = f"{len(plan.go)} deleted, {readable_size(freed)} are free."
        st.rerun()
