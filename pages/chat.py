"""Chat: talk to a model, stop it, take it back, and see every token it says."""

import streamlit as st

from nanochat.analysis import chat
from nanochat.paths import kernels_problem
from nanochat.ui.chat import PAGE, meter, open_model, say, settings, show_messages, take_away, talk, write
from nanochat.ui.errors import errors_as_sentences, show_problem
from nanochat.ui.pickers import base_dir_input, pick_checkpoint
from nanochat.ui.shell import heading
from nanochat.ui.text import plain, visible


def _chat(extra: str | None) -> None:
    chosen = pick_checkpoint(PAGE, extra=extra, talking=True)
    if chosen is None:
        return
    mine = talk()
    opened = open_model(chosen)
    if opened is None:
        return
    continuation = chosen.run.stage == "base"
    sampling, system, python = settings(continuation)
    if text := st.chat_input("Text to go on with" if continuation else "Say something", key=f"{PAGE}_input"):
        say(mine, text)
    tokenizer, context = opened.loaded.tokenizer, opened.loaded.model.config.sequence_len
    try:
        prompt = chat.fit(
            tokenizer, mine.messages, context, system=system, reserve=sampling.max_tokens, model=chosen.id,
            continuation=continuation,
        )  # fmt: skip
    except chat.ChatError as error:
        prompt, mine.wanted, mine.problem = None, False, str(error)
    if not mine.messages:
        question = "" if continuation else chat.try_asking(opened.loaded.meta)
        begin = "It continues your text." if continuation else "A new conversation."
        st.caption(begin + (f" Try: {plain(question)}" if question else ""))
    show_messages(mine, opened, prompt.dropped if prompt else 0)
    if mine.problem:
        show_problem("That could not be answered.", mine.problem)
    if prompt is not None:
        if mine.messages:
            meter(prompt, len(mine.messages))
        if mine.wanted:
            write(mine, opened, chosen, prompt, sampling, python)
    take_away(mine, system, continuation)
    with st.expander("About this model"):
        for note in opened.loaded.notes:
            st.text(visible(note))


def main() -> None:
    """Draw the page."""
    heading(PAGE)
    conflict = kernels_problem()
    if conflict is not None:
        show_problem("Models cannot run: a part of this project is not what Python finds.", conflict)
        return
    with errors_as_sentences("chatting"):
        _chat(base_dir_input(PAGE))


main()
