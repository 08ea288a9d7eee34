"""Generation explorer: watch a model choose its next word, and make it choose another."""

import streamlit as st

from nanochat.analysis import generation_explorer as explorer
from nanochat.ui import generation_explorer as views
from nanochat.ui import generation_explorer_settings as several
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.generation_explorer import PAGE
from nanochat.ui.pickers import base_dir_input, pick_checkpoint, pick_view
from nanochat.ui.shell import heading
from nanochat.ui.text import visible

VIEWS = ("Write", "Compare settings", "Count many texts")
PROMPTS = {"chat": "Who are you?", "stories": "One warm morning,", "text": "Once upon a time"}


def _prompt(model: views.Opened, chat: bool) -> explorer.Prompt:
    """What is continued, or answered."""
    kind = "chat" if chat else "stories" if model.stories else "text"
    text = st.text_area(
        "Question" if chat else "Prompt", PROMPTS[kind], key=f"{PAGE}_prompt_{kind}", height=68,
        persist_state="session", max_chars=20_000,
    )  # fmt: skip
    prompt = explorer.encode_prompt(model.engine.tokenizer, text, chat=chat)
    st.caption(f"{len(prompt.ids):,} tokens, {prompt.note}.")
    return prompt


def main() -> None:
    """Draw the page."""
    heading(
        PAGE, "At each step a model has an opinion about every token. See it, and see what happens if it says another."
    )
    with errors_as_sentences("exploring the text"):
        checkpoint = pick_checkpoint(PAGE, extra=base_dir_input(PAGE))
        settings, most = views.choose_settings()
        if checkpoint is None:
            several.draw_example(settings)
            return
        model = views.opened(checkpoint)
        if model is None:
            return
        chat = checkpoint.run.stage != "base"
        if chat and st.toggle("Continue as plain text", key=f"{PAGE}_plain", bind="query-params"):
            chat = False
        work = views.work_on(model, _prompt(model, chat))
        view = pick_view(PAGE, VIEWS)
        if view == VIEWS[1]:
            several.draw_comparison(work, settings, most)
        elif view == VIEWS[2]:
            several.draw_counting(model, work, settings)
        else:
            views.draw_writing(work, settings, most)
        with st.expander("About this model"):
            for note in model.notes:
                st.text(visible(note))


main()
