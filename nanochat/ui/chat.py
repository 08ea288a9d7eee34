"""The chat page's parts: the model, the settings, the messages and what can be done to each, a reply on its way."""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import streamlit as st

from nanochat.analysis import chat
from nanochat.analysis.chat import Message, Messages, Prompt
from nanochat.errors import is_message
from nanochat.kept_cache import KeptCache, Shelf
from nanochat.reply import Part, Reply, Sampling, shared_engine
from nanochat.ui.chips import Chip, chips
from nanochat.ui.models import Shared, open_shared, tell_waiting
from nanochat.ui.pickers import Checkpoint
from nanochat.ui.states import OFFERED, go_to
from nanochat.ui.text import plain, visible

PAGE = "chat"
REDRAW = 0.1  # seconds between two drawings of a reply: what an eye follows, and what a browser keeps up with
SENT = 0.03  # seconds until what was drawn is on its way: a rerun throws away what still waits to be sent
WHO = {"user": "what you said", "model": "the model chose it", "tool": "a tool put it there"}
STYLES = {"user": "plain", "model": "supervised", "tool": "context"}
AVATARS = {"user": ":material/person:", "assistant": ":material/smart_toy:"}
LABELS = {"python": "The model calls a tool", "python_output": "The tool answers"}


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """What all tabs' conversations keep of what was read and written, together."""
    return Shelf()


@dataclass
class Talk:
    """One tab's conversation. Kept as one object, because a run of the page can be cut short at any line."""

    messages: Messages = ()
    kept: KeptCache = field(default_factory=lambda: KeptCache(shelf()))  # what the model has read of them
    wanted: bool = False  # a reply is to be written
    seed: int | None = None  # of that reply, where it is not the one in the settings
    draft: Reply | None = None  # the reply that is being written, or was when the page was cut short
    draft_of: tuple[str, int] = ("", 0)  # its model and seed
    edited: int | None = None  # the message whose text is open for editing
    viewed: int | None = None  # the message whose tokens are shown
    problem: str = ""  # what the last attempt failed on


def talk() -> Talk:
    """This tab's conversation; a reply that a click cut short is put into it as far as it came."""
    found = st.session_state.get(f"{PAGE}_talk")
    if not isinstance(found, Talk):
        found = st.session_state[f"{PAGE}_talk"] = Talk()
    if found.draft is not None:
        keep(found)
    return found


def keep(mine: Talk) -> None:
    """Put the draft into the conversation."""
    if mine.draft is not None:
        mine.messages = chat.answered(mine.messages, mine.draft, *mine.draft_of)
    mine.draft = None


def open_model(chosen: Checkpoint) -> Shared | None:
    """The model, on the fastest device; None while the person has not decided about one that is too large."""
    from nanochat.device import choose_device

    return open_shared(PAGE, chosen, choose_device("auto").device)


def settings(continuation: bool) -> tuple[Sampling, str, bool]:
    """(how tokens are drawn, the system text, whether Python may run)."""
    with st.expander("Settings", icon=":material/tune:"):
        left, middle, right = st.columns(3)
        temperature = left.slider("Temperature", 0.0, 2.0, 0.6, 0.05, key=f"{PAGE}_temperature", bind="query-params",
                                  help="0 always takes the likeliest token; above 1 unlikely ones gain.")  # fmt: skip
        top_k = left.number_input("Top-k", 0, 100_000, 50, key=f"{PAGE}_top_k", bind="query-params",
                                  help="Only the k likeliest tokens; 0 for all.")  # fmt: skip
        top_p = middle.slider("Top-p", 0.05, 1.0, 1.0, 0.05, key=f"{PAGE}_top_p", bind="query-params",
                              help="Only the likeliest tokens that together hold this share.")  # fmt: skip
        min_p = middle.slider("Min-p", 0.0, 1.0, 0.0, 0.01, key=f"{PAGE}_min_p", bind="query-params",
                              help="No token below this fraction of the likeliest one's probability.")  # fmt: skip
        longest = right.number_input("Longest reply, in tokens", 1, 100_000, 256, key=f"{PAGE}_max_tokens",
                                     bind="query-params")  # fmt: skip
        seed = right.number_input("Seed", 0, 2**31 - 1, 42, key=f"{PAGE}_seed", bind="query-params",
                                  help="The same seed, settings and conversation give the same reply.")  # fmt: skip
        system = ""
        if continuation:
            st.caption("This model has seen no conversation: it continues what you type, and takes no system text.")
        else:
            system = st.text_area("System text", key=f"{PAGE}_system", height=80, persist_state="session",
                                  help="It stands before your first message.")  # fmt: skip
        python = _python_toggle()
    sampling = Sampling(
        temperature, int(top_k), None if top_p == 1.0 else top_p, min_p or None, int(longest), int(seed)
    )
    return sampling, system.strip(), python


def _python_toggle() -> bool:
    from nanochat.execution import sandbox_status

    status = sandbox_status()  # tried once a server
    python = st.toggle("Let the model run Python, contained", key=f"{PAGE}_python", disabled=not status.available)
    words = "The calculator always answers."
    st.caption(words if status.available else f"{words} Python is off here: {plain(status.reason)}")
    return python and status.available


def show_messages(mine: Talk, opened: Shared, dropped: int) -> None:
    """The conversation, each message with what can be done to it."""
    for index, message in enumerate(mine.messages):
        with st.chat_message(message.role, avatar=AVATARS[message.role]):
            if index < dropped:
                st.caption("The model does not see this any more: the context is full.")
            if mine.edited == index:
                _edit(mine, index)
                continue
            show_parts(message.parts)
            if message.called_in_vain:
                st.caption("No tool answered: the call was not finished, or it is nothing that the tool can do.")
            _actions(mine, index, message)
            if mine.viewed == index:
                _tokens(opened, index, message)


def show_parts(parts: tuple[Part, ...] | list[Part]) -> None:
    """Text as text, tool calls as what they are."""
    for part in parts:
        text = "\n".join(visible(line) for line in part["text"].split("\n"))
        if part["type"] == "text":
            st.text(text)
        else:
            st.caption(LABELS[part["type"]])
            st.code(text or " ", language="python" if part["type"] == "python" else None, wrap_lines=True)


def _actions(mine: Talk, index: int, message: Message) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if message.role == "assistant":
            st.caption(chat.summary(message), width="content")
        if st.button("Tokens", key=f"{PAGE}_tokens_{index}", type="tertiary", icon=":material/abc:"):
            mine.viewed = None if mine.viewed == index else index
            st.rerun()
        if message.role == "user":
            if st.button("Edit", key=f"{PAGE}_edit_{index}", type="tertiary", icon=":material/edit:"):
                mine.edited = index
                st.rerun()
            unanswered = index == len(mine.messages) - 1 and not mine.wanted
            if unanswered and st.button("Answer", key=f"{PAGE}_answer", type="tertiary", icon=":material/reply:"):
                mine.wanted = True
                st.rerun()
        elif index == len(mine.messages) - 1 and st.button(
            "Regenerate", key=f"{PAGE}_again", type="tertiary", icon=":material/refresh:",
            help="Another reply, with the next seed.",
        ):  # fmt: skip
            mine.seed = chat.next_seed(mine.messages, 0)
            mine.messages, mine.wanted = chat.rewound(mine.messages, index), True
            st.rerun()


def _edit(mine: Talk, index: int) -> None:
    with st.form(f"{PAGE}_form_{index}", border=False):
        text = st.text_area("Message", mine.messages[index].text, key=f"{PAGE}_edited_{index}")
        st.caption("What comes after it goes.")
        sent = st.form_submit_button("Send again", type="primary")
    if st.button("Leave it", key=f"{PAGE}_leave_{index}", type="tertiary"):
        mine.edited = None
        st.rerun()
    if sent:
        say(mine, text, chat.rewound(mine.messages, index))
        st.rerun()


def say(mine: Talk, text: str, before: Messages | None = None) -> None:
    """Add what the person says, behind the conversation or behind an earlier part of it, and ask for a reply."""
    try:
        mine.messages = chat.say(mine.messages if before is None else before, text)
    except chat.ChatError as error:
        mine.problem = str(error)
        return
    mine.edited, mine.viewed, mine.seed, mine.wanted, mine.problem = None, None, None, True, ""


def _tokens(opened: Shared, index: int, message: Message) -> None:
    rows = chat.token_rows(opened.loaded.tokenizer, message)
    found = [Chip(text, number, WHO[by], STYLES[by]) for number, text, by in rows.iter_rows()]
    legend = {STYLES[by]: WHO[by] for by in rows["by"].unique(maintain_order=True)}
    chips(found, key=f"{PAGE}_chips_{index}", label=f"Tokens of message {index + 1}", legend=legend)


def meter(prompt: Prompt, messages: int) -> None:
    """How full the context is, and what the next reply will not see."""
    words = f"{len(prompt.ids):,} of {prompt.context:,} tokens of context"
    if prompt.dropped:
        words += f"; the first {prompt.dropped} of {messages} messages no longer fit"
    st.progress(prompt.share, text=words)


def write(mine: Talk, opened: Shared, chosen: Checkpoint, prompt: Prompt, sampling: Sampling, python: bool) -> None:
    """Write the reply that is wanted, on the screen as it comes. A click on anything stops it, and it is kept."""
    if mine.seed is not None:  # a reply that is written anew
        sampling = replace(sampling, seed=mine.seed)
    mine.wanted, mine.seed, mine.problem = False, None, ""
    reply = mine.draft = Reply()
    mine.draft_of = (chosen.id, sampling.seed)
    with st.chat_message("assistant", avatar=AVATARS["assistant"]):
        place = st.empty()
        place.caption("…")
        st.button("Stop the reply", key=f"{PAGE}_stop", icon=":material/stop:")
        try:
            _stream(reply, mine.kept, opened, prompt, sampling, python, place)
        except ValueError as error:
            if not is_message(error):
                raise
            mine.problem = str(error)
    keep(mine)
    st.rerun()


def _stream(
    reply: Reply, kept: KeptCache, opened: Shared, prompt: Prompt, sampling: Sampling, python: bool, place: Any
) -> None:
    def draw() -> None:
        with place.container():
            show_parts(reply.parts)

    engine = shared_engine(opened.loaded, opened.queue, python=python)
    with opened.queue.seat(partial(tell_waiting, place)):
        due = 0.0
        pieces = reply.write(engine, prompt.ids, sampling, opened.queue, kept)
        try:
            for piece in pieces:
                now = time.perf_counter()
                if now > due or piece.kind != "text":
                    draw()
                    after = time.perf_counter()
                    due = after + max(REDRAW, 4 * (after - now))  # a long text takes longer to draw: less often
        finally:
            pieces.close()
    draw()
    time.sleep(SENT)


def take_away(mine: Talk, system: str, continuation: bool) -> None:
    """Start over, export, and where else to go."""
    with st.container(horizontal=True):
        if st.button(
            "New conversation", key=f"{PAGE}_clear", icon=":material/add_comment:", disabled=not mine.messages
        ):
            st.session_state[f"{PAGE}_talk"] = Talk()
            st.rerun()
        if not mine.messages:
            return
        if continuation:
            st.download_button("Export text", chat.plain_text(mine.messages), "continuation.txt", "text/plain",
                               key=f"{PAGE}_export", icon=":material/download:", on_click="ignore")  # fmt: skip
        else:
            st.download_button("Export JSONL", chat.export(mine.messages, system), "chat.jsonl", "application/jsonl",
                               key=f"{PAGE}_export", icon=":material/download:", on_click="ignore",
                               help="The conversation builder opens it, and chat_sft trains on it.")  # fmt: skip
            st.session_state[OFFERED] = chat.as_conversation(mine.messages, system)
            go_to("conversation_template_builder", "Open in the builder", {"conversation_template_builder_from": PAGE})
