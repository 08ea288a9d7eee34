"""The conversation builder's editor: turns and parts that can be written, moved, added and removed, loaded and saved.

The turns lie in the session's state as a list of ids; what is typed lies under the keys of the fields, so that moving
a turn moves no text. `conversation()` puts both together.
"""

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from nanochat import paths
from nanochat.analysis import conversation_template_builder as builder
from nanochat.conversation import PARTS, ROLES
from nanochat.ui.errors import errors_as_sentences, show_problem
from nanochat.ui.states import OFFERED, fine_tune_link, go_to
from nanochat.ui.text import plain

PAGE = "conversation_template_builder"
# [{"id", "parts": None or [id, ...], "extra": other fields of the message}, ...]; the next free id
TURNS, NEXT = f"{PAGE}_turns", f"{PAGE}_next"
EXTRA = f"{PAGE}_extra"  # what a loaded conversation carries beside its messages: kept when it is saved
DRAFT, DRAFTS = f"{PAGE}_draft", 50  # in session and address: the name of this tab's draft; how many are kept
KEPT = f"{PAGE}_kept"  # the conversation as the draft on disk has it, or as the page began with it
TEMPLATES: dict[str, Callable[[], builder.Conversation]] = {
    "Simple": lambda: builder.simple("What is 2+2?", "It's 4."),
    "Multi-turn": lambda: builder.multi(
        ["Who are you?", "A small language model.", "How small?", "A few million numbers."]
    ),
    "With a tool": lambda: builder.tool("What is 12*12?", "12*12", "144", "It is 144.", before="Let me calculate. "),
}
PART_NAMES = {"text": "says", "python": "runs code", "python_output": "gets the output"}


def _field(kind: str, number: int) -> str:
    return f"{PAGE}_{kind}_{number}"


def _new_id() -> int:
    number = st.session_state.get(NEXT, 0)
    st.session_state[NEXT] = number + 1
    return int(number)


def load(value: Any) -> None:
    """Put a conversation into the editor. Raises BuilderError for one of which something would be lost there."""
    turns = []
    builder.as_line(value)  # half a character is refused here, and not by each field
    messages = builder.messages_of(value)
    if not messages:
        raise builder.BuilderError("there are no messages in it; a conversation is a list of roles and contents")
    for index, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str | list):
            raise builder.BuilderError(
                f"message {index + 1} has no known role or no content, so it cannot be edited; `nanochat "
                "conversation_template_builder --validate FILE` says all that is wrong"
            )
        others = {name: field for name, field in message.items() if name not in ("role", "content")}
        turn: dict[str, Any] = {"id": _new_id(), "parts": None, "extra": others}
        st.session_state[_field("role", turn["id"])] = role
        if isinstance(content, str):
            st.session_state[_field("content", turn["id"])] = content
        else:
            turn["parts"] = [_load_part(part, index) for part in content]
        turns.append(turn)
    extra = {k: v for k, v in value.items() if k != "messages"} if isinstance(value, dict) else {}
    before = {name: st.session_state.get(name) for name in (TURNS, EXTRA)}
    st.session_state.update({TURNS: turns, EXTRA: extra})
    if conversation() != {**extra, "messages": messages}:
        st.session_state.update(before)
        raise builder.BuilderError(
            "it has parts of a user's message, or fields of a part, for which there is no place here: they would be "
            "lost; edit the file itself"
        )


def _load_part(part: Any, index: int) -> int:
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
    if kind not in PARTS or not isinstance(text, str):
        raise builder.BuilderError(
            f"message {index + 1} has a part without a known type or text; use {', '.join(PARTS)}"
        )
    number = _new_id()
    st.session_state[_field("type", number)] = kind
    st.session_state[_field("content", number)] = text
    return number


def conversation() -> builder.Conversation:
    """What is in the editor."""
    state = st.session_state
    messages = []
    for turn in state[TURNS]:
        role = state.get(_field("role", turn["id"])) or "user"
        content: Any = state.get(_field("content", turn["id"]), "")
        if turn["parts"] is not None and role == "assistant":
            content = [
                {"type": state.get(_field("type", part)) or "text", "text": state.get(_field("content", part), "")}
                for part in turn["parts"]
            ]
        messages.append({"role": role, "content": content, **turn["extra"]})
    return {**state.get(EXTRA, {}), "messages": messages}


def draw_editor() -> None:
    """All turns, and what can be done with them."""
    if st.session_state.get(TURNS) is None:
        _begin()
    if st.query_params.pop(f"{PAGE}_from", None) is not None and OFFERED in st.session_state:
        load(st.session_state.pop(OFFERED))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for name, make in TEMPLATES.items():
            st.button(name, key=f"{PAGE}_template_{name}", on_click=_use, args=(make,), icon=":material/note_add:")
        _draw_load()
    turns = st.session_state[TURNS]
    for place, turn in enumerate(turns):
        _draw_turn(place, turn, len(turns))
    st.button("Add a turn", key=f"{PAGE}_add", on_click=_add, icon=":material/add:")


def _begin() -> None:
    """The conversation that this tab was writing before its page was loaded anew, else the simplest one."""
    name = st.query_params.get(DRAFT, "")
    try:
        load(builder.load(_draft(name)))
        st.session_state[DRAFT] = name
    except builder.BuilderError:  # none is there, or none that can be edited
        load(TEMPLATES["Simple"]())
    st.session_state[KEPT] = conversation()


def keep_draft(value: builder.Conversation) -> None:
    """Keep what is being written under a name in the address, so that the page has it when it is loaded anew."""
    state = st.session_state
    if state.get(KEPT) != value:
        state[KEPT] = value
        state[DRAFT] = state.get(DRAFT) or secrets.token_hex(4)
        try:
            path = builder.save(_draft(state[DRAFT]), value, overwrite=True)
            for old in sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-DRAFTS]:
                old.unlink(missing_ok=True)
        except (builder.BuilderError, OSError) as refusal:
            st.caption(plain(f"It is lost when this page is loaded anew: {refusal}"))
    if DRAFT in state and st.query_params.get(DRAFT) != state[DRAFT]:
        st.query_params[DRAFT] = state[DRAFT]


def _draft(name: str) -> Path:
    """Where a draft lies. Raises BuilderError for what is no name of one."""
    if not re.fullmatch("[0-9a-f]{8}", name):
        raise builder.BuilderError("that is no name of a draft")
    return paths.workspace() / "conversations" / ".drafts" / f"{name}.json"


def _use(make: Callable[[], builder.Conversation]) -> None:
    load(make())


def _add() -> None:
    turns = st.session_state[TURNS]
    number = _new_id()
    last = st.session_state.get(_field("role", turns[-1]["id"])) if turns else "assistant"
    st.session_state[_field("role", number)] = "assistant" if last == "user" else "user"
    st.session_state[_field("content", number)] = ""
    turns.append({"id": number, "parts": None, "extra": {}})


def _draw_turn(place: int, turn: dict[str, Any], count: int) -> None:
    number = turn["id"]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            role = st.segmented_control(
                f"Role of turn {place + 1}",
                ROLES,
                required=True,
                key=_field("role", number),
                label_visibility="collapsed",
                persist_state="session",
            )
            for name, icon, step in (("Up", "arrow_upward", -1), ("Down", "arrow_downward", 1)):
                st.button(
                    f":material/{icon}:",
                    key=_field(name, number),
                    help=f"Move turn {place + 1} {name.lower()}",
                    disabled=not 0 <= place + step < count,
                    on_click=_move,
                    args=(number, step),
                    type="tertiary",
                )
            st.button(
                ":material/delete:",
                key=_field("remove", number),
                help=f"Remove turn {place + 1}",
                on_click=_remove,
                args=(number,),
                type="tertiary",
            )
        if turn["parts"] is not None and role == "assistant":
            _draw_parts(place, turn)
            return
        st.text_area(
            f"Text of turn {place + 1}",
            key=_field("content", number),
            height="content",
            label_visibility="collapsed",
            persist_state="session",
        )
        if role == "assistant":
            st.button(
                "Split into parts, for code and its output",
                key=_field("split", number),
                on_click=_split,
                args=(turn,),
                type="tertiary",
                icon=":material/call_split:",
            )


def _draw_parts(place: int, turn: dict[str, Any]) -> None:
    for index, part in enumerate(turn["parts"]):
        with st.container(horizontal=True, vertical_alignment="top"):
            st.selectbox(
                f"Kind of part {index + 1} of turn {place + 1}",
                list(PARTS),
                key=_field("type", part),
                format_func=lambda kind: PART_NAMES[kind],
                label_visibility="collapsed",
                persist_state="session",
                width=150,
            )
            st.text_area(
                f"Part {index + 1} of turn {place + 1}",
                key=_field("content", part),
                height="content",
                label_visibility="collapsed",
                persist_state="session",
            )
            st.button(
                ":material/delete:",
                key=_field("remove_part", part),
                help=f"Remove part {index + 1} of turn {place + 1}",
                on_click=_remove_part,
                args=(turn, part),
                type="tertiary",
            )
    st.button(
        "Add a part", key=_field("add_part", turn["id"]), on_click=_add_part, args=(turn,), icon=":material/add:",
        type="tertiary",
    )  # fmt: skip


def _place_of(number: int) -> int | None:
    """Where a turn stands; None where it is gone: a second click may come before the first one is drawn."""
    return next((place for place, turn in enumerate(st.session_state[TURNS]) if turn["id"] == number), None)


def _move(number: int, step: int) -> None:
    turns, place = st.session_state[TURNS], _place_of(number)
    if place is not None and 0 <= place + step < len(turns):
        turns[place], turns[place + step] = turns[place + step], turns[place]


def _remove(number: int) -> None:
    place = _place_of(number)
    if place is not None:
        del st.session_state[TURNS][place]


def _remove_part(turn: dict[str, Any], part: int) -> None:
    if part in turn["parts"]:
        turn["parts"].remove(part)


def _split(turn: dict[str, Any]) -> None:
    number = _new_id()
    st.session_state[_field("type", number)] = "text"
    st.session_state[_field("content", number)] = st.session_state.get(_field("content", turn["id"]), "")
    turn["parts"] = [number]


def _add_part(turn: dict[str, Any]) -> None:
    number = _new_id()
    kinds = [st.session_state.get(_field("type", part)) for part in turn["parts"]]
    following = {"text": "python", "python": "python_output"}.get(str(kinds[-1]) if kinds else "", "text")
    st.session_state[_field("type", number)] = following
    st.session_state[_field("content", number)] = ""
    turn["parts"].append(number)


def _draw_load() -> None:
    with st.popover("Open", icon=":material/folder_open:"):
        path = st.text_input("A .json or .jsonl file on this machine", key=f"{PAGE}_load_path")
        line = st.number_input("Line of a .jsonl file", 1, key=f"{PAGE}_load_line")
        upload = st.file_uploader("Or upload one conversation", type=["json", "jsonl"], key=f"{PAGE}_upload")
        if st.button("Open it", key=f"{PAGE}_load"):
            with errors_as_sentences("opening a conversation"):
                if upload is not None:
                    load(builder.parse(upload.getvalue(), upload.name, int(line)))
                elif path:
                    load(builder.load(path, int(line) if path.endswith("l") else None))
                else:
                    raise builder.BuilderError("no file was named; give its path, or upload one")
                st.rerun()


def draw_save(value: builder.Conversation) -> None:
    """Download, save to a file of its own, append to a dataset, and on to training."""
    st.download_button(
        "Download", json.dumps(value, ensure_ascii=False, indent=2, default=str), "conversation.json",
        "application/json", key=f"{PAGE}_download", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    with st.form(f"{PAGE}_save_form", border=True, enter_to_submit=False):
        path = st.text_input(
            "Save to a file of its own", str(paths.workspace() / "conversations" / "conversation.json"),
            key=f"{PAGE}_save_path", persist_state="session",
        )  # fmt: skip
        replace = st.checkbox("Replace the file if it is there", key=f"{PAGE}_replace")
        if st.form_submit_button("Save", key=f"{PAGE}_save"):
            with errors_as_sentences("saving the conversation"):
                st.success(f"Saved to {plain(str(builder.save(path, value, replace)))}")
    with st.form(f"{PAGE}_append_form", border=True, enter_to_submit=False):
        path = st.text_input(
            "Append to a dataset", str(paths.workspace() / "conversations" / "chats.jsonl"),
            key=f"{PAGE}_append_path", persist_state="session",
            help="One conversation a line. Only one that is fit for training is added.",
        )  # fmt: skip
        if st.form_submit_button("Append", type="primary", key=f"{PAGE}_append"):
            with errors_as_sentences("adding the conversation"):
                try:
                    st.success(plain(builder.append_and_tell(path, value)) + ".")
                except builder.BuilderError as refusal:
                    show_problem("It was not added.", str(refusal))
    if paths.expand(path).is_file():
        full = paths.expand(path).absolute()
        name, found = plain(full.name), builder.held(full, value)
        if found is not None:
            many = f"{found[0]:,} conversation{'' if found[0] == 1 else 's'}"
            st.caption(f"{name} has {many}{', this one among them' if found[1] else '; this one is not among them'}.")
        fine_tune_link(full, f"Fine-tune on {name}")
        go_to("dataset_inspector", f"Inspect {name}", {"dataset_inspector_path": str(full)})
