"""The generation explorer's views of several settings: one text under each, many texts under each, and none at all."""

import time
from functools import partial
from typing import Any

import streamlit as st

from nanochat.analysis import generation_explorer as explorer
from nanochat.analysis.generation_explorer import Settings
from nanochat.ui.generation_explorer import MOST_TOKENS, PAGE, PIECE, Opened, Work, apart_chips, grow
from nanochat.ui.models import tell_waiting

NAMES = {"temperature": "Temperature", "top_k": "Top-k", "top_p": "Top-p", "min_p": "Min-p"}
COUNTED = f"{PAGE}_counted"
STORY_TOKENS = 110  # more than any built-in story under the tokenizer of the demo


def _values(view: str) -> tuple[str, list[float]]:
    """Which setting differs, and its values."""
    name = st.segmented_control(
        "Setting", list(NAMES), default="temperature", format_func=NAMES.__getitem__, key=f"{PAGE}_{view}_name",
        required=True, bind="query-params",
    ) or "temperature"  # fmt: skip
    ready = list(explorer.COMPARED[name])
    chosen = st.multiselect(
        "Values", ready, default=ready, key=f"{PAGE}_{view}_{name}", format_func=lambda value: f"{value:g}"
    )
    return name, sorted(chosen)


def draw_comparison(work: Work, settings: Settings, most: int) -> None:
    """The same prompt and dice under several values of one setting."""
    from nanochat.charts import generation_explorer as charts

    name, values = _values("compare")
    if not values:
        st.info("Choose at least one value to compare.")
        return
    room = work.session.capacity // len(values)  # what is not kept would be computed again and again
    if most > room:
        st.caption(f"{room} tokens each, because the memory for kept steps holds no more of this vocabulary.")
        most = room
    deadline, place = time.monotonic() + PIECE, st.empty()
    for done, value in enumerate(values):
        if not grow(work, settings.varied(name, value), most, (), deadline, place)[1]:
            st.progress(done / len(values), f"Writing with {NAMES[name].lower()} {value:g}")
            st.rerun()
    result = explorer.compare(work.session, settings, name, values, most)
    own = result.variations[result.reference]
    st.markdown(
        "The same dice each time, so texts differ only where the setting tips a choice. Grey is what a text shares "
        f"with that of {own.label.lower()}, blue and underlined is where it leaves it."
    )
    for one in result.variations:
        words = "the others are compared with it" if one is own else "the same text"
        if one.diverges is not None:
            words = f"first divergence at step {one.diverges + 1}"
        st.markdown(f"**{one.label}**: {words}")
        shared = len(one.report.ids) if one is own else one.diverges
        apart_chips(one.report, shared, f"{PAGE}_compare_{name}_{one.value:g}")
    if len(values) > 1:
        st.altair_chart(
            charts.comparison(result.frame, name),
            alt="How many tokens each text shares with the one they are compared with",
        )
    with st.expander("As a table"):
        st.dataframe(result.frame, hide_index=True, alt="The texts and their figures")


def draw_counting(model: Opened, work: Work, settings: Settings) -> None:
    """Many texts under each value of one setting, counted."""
    from nanochat.charts import generation_explorer as charts

    name, values = _values("count")
    samples = st.slider("Texts of each", 4, 64, 16, 4, key=f"{PAGE}_samples", bind="query-params")
    judged = model.stories and not work.prompt.chat
    most = st.slider("Tokens of each, at most", 10, MOST_TOKENS, STORY_TOKENS if judged else 50, 10,
                     key=f"{PAGE}_count_tokens", bind="query-params")  # fmt: skip
    if judged:
        st.caption("This model knows the built-in stories, so their grammar says which texts are right. A story has "
                   "80 to 95 tokens; a text that is cut off is none.")  # fmt: skip
    asked = (work.key, settings, name, tuple(values), samples, most)
    if st.button("Write and count", type="primary", key=f"{PAGE}_count", icon=":material/casino:", disabled=not values):
        bar = st.progress(0.0, "Writing")

        def tell(done: int, of: int) -> None:
            bar.progress(done / of, f"Writing: {done} of {of} settings")

        with work.queue.seat(partial(tell_waiting, st.empty())):
            result = explorer.statistics(
                model.engine, work.prompt, settings, values, name=name, samples=samples, max_tokens=most,
                judged=judged, progress=tell, in_turns=work.queue.in_turns,
            )  # fmt: skip
        bar.empty()
        st.session_state[COUNTED] = (asked, result)
    kept = st.session_state.get(COUNTED)
    if kept is None or kept[0][0] != work.key:
        st.caption("distinct-n is the share of different n-grams in all texts; repetition is the share of 4-grams that "
                   "the same text has said before.")  # fmt: skip
        return
    if kept[0] != asked:
        st.caption("Counted under other settings than those above.")
    _draw_counted(kept[1], charts)


def _draw_counted(result: explorer.Statistics, charts: Any) -> None:
    st.altair_chart(charts.statistics(result.frame, result.name).properties(height=320),
                    alt=f"Figures of {result.samples} texts each against the {NAMES[result.name].lower()}")  # fmt: skip
    if result.judged:
        best = result.frame.sort("accepted", descending=True, maintain_order=True).row(0, named=True)
        where = f"{NAMES[result.name].lower()} {best['value']:g}"
        st.markdown(
            f"At {where}, **{best['accepted']:.0%}** of the texts are stories with every name and sum right."
            if best["accepted"]
            else "None of the texts is a story: was the prompt the beginning of one, and were there tokens enough?"
        )
    st.dataframe(result.frame, hide_index=True, column_config=_columns(result), alt="The figures of each setting")
    with st.expander("The texts"):
        st.dataframe(result.texts, hide_index=True, alt="Every text that was counted")


def _columns(result: explorer.Statistics) -> dict[str, Any]:
    """How the table of the figures calls its columns, and what each is."""
    percent = partial(st.column_config.NumberColumn, format="percent")
    columns: dict[str, Any] = {
        "value": st.column_config.NumberColumn(NAMES[result.name]),
        "tokens": st.column_config.NumberColumn(
            "Tokens", format="%.1f", help="Written on average, the prompt left out."
        ),
        "ended": percent("Ended", help="Texts that the model ended itself."),
        "different": percent("Different", help="Texts that are none of the others."),
        "repetition": percent("Repetition", help="4-grams that the same text has said before."),
        "accepted": percent("All right", help="Stories that the grammar accepts, with every name and sum right."),
        "shape": percent("Right shape", help="Stories whose sentences follow the grammar, whatever they say."),
    }
    for n in (1, 2, 3):
        columns[f"distinct_{n}"] = percent(f"distinct-{n}", help=f"Different {n}-grams, of all in all texts.")
    return columns if result.judged else columns | {"accepted": None, "shape": None}


def draw_example(settings: Settings) -> None:
    """What the settings do to a distribution that was made up: the page teaches before there is a model."""
    from nanochat.charts import generation_explorer as charts

    step = explorer.example_step(settings)
    st.markdown(
        "Until then, the settings above on an example that is made up: what might follow “The cat sat on the”? "
        f"**{step.kept}** of {step.candidates.height} candidates are kept."
    )
    st.altair_chart(charts.candidates(step.candidates).properties(height=420),
                    alt="Made-up candidates alone, after temperature and after the filters")  # fmt: skip
