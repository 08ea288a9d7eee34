"""Tokenizer playground: see how a text falls into tokens, and why."""

import streamlit as st

from nanochat.analysis import tokenizer_playground as playground
from nanochat.analysis.tokenizer_playground import Known, Place
from nanochat.ui import tokenizer_playground as views
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.pickers import base_dir_input, pick_view
from nanochat.ui.shell import heading
from nanochat.ui.text import plain, visible
from nanochat.ui.tokenizer_playground import MEMORY, PAGE, TRAINED

VIEWS = ("Tokens", "Merges", "Vocabulary", "Compare", "Languages", "Train one", "Chat")


@st.cache_data(ttl="5s", max_entries=8, show_spinner="Looking for tokenizers")
def _places(base_dir: str | None, roots: tuple[str, ...]) -> list[Place]:
    """roots: what the two roots are now, since they are what is looked through."""
    found = playground.places()
    if base_dir is not None:
        found = [place for place in playground.places(base_dir) if place.path is not None] + found
    return list({place.id: place for place in reversed(found)}.values())[::-1]


def _choose(places: list[Place]) -> Known:
    """The tokenizer that all views are of."""
    by_id = {place.id: place for place in places if place.missing is None}
    learned = st.session_state.get(MEMORY)
    if learned is not None:
        by_id[TRAINED] = Place(TRAINED, learned.known.label, None)
    chosen = st.selectbox(
        "Tokenizer",
        list(by_id),
        key=f"{PAGE}_tokenizer",
        format_func=visible,  # the address carries what is shown here, so it is the id alone
        bind="query-params",
    )
    known = learned.known if chosen == TRAINED and learned is not None else views.opened(by_id[chosen])
    label = visible(by_id[chosen].label)
    st.caption(f"{label[:1].upper()}{label[1:]}: {known.size:,} tokens, {len(known.special_tokens)} of them special.")
    for note in known.notes:
        st.caption(plain(note))
    return known


def _others(places: list[Place]) -> list[Known]:
    """More tokenizers to compare with."""
    by_id = {place.id: place for place in places if place.missing is None}
    chosen = st.multiselect(
        "Other tokenizers",
        list(by_id),
        key=f"{PAGE}_others",
        format_func=lambda name: visible(f"{name}: {by_id[name].label}"),
    )
    return [views.opened(by_id[name]) for name in chosen]


def _draw(view: str, known: Known, places: list[Place]) -> None:
    if view == "Tokens":
        views.draw_tokens(known)
    elif view == "Merges":
        views.draw_merges(known)
    elif view == "Vocabulary":
        views.draw_vocabulary(known)
    elif view == "Compare":
        views.draw_compare(known, lambda: _others(places))
    elif view == "Languages":
        views.draw_languages(known)
    elif view == "Train one":
        views.draw_train()
    else:
        views.draw_chat(known)


def main() -> None:
    """Draw the page."""
    from nanochat.paths import roots

    heading(PAGE, "A model reads numbers, not letters. See how a text falls into tokens, and why there.")
    with errors_as_sentences("opening a tokenizer"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            extra = base_dir_input(PAGE)
            places = _places(extra, tuple(str(root.path) for root in roots()))
            missing = [place for place in places if place.missing is not None]
            if missing:
                views.show_missing(missing)
        known = _choose(places)
        view = pick_view(PAGE, VIEWS)
        with errors_as_sentences("reading the text"):
            _draw(view or VIEWS[0], known, places)


main()
