"""The conversation builder's views: what is wrong, the mask, what predicts what, what a cut loses, a token's loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.analysis import conversation_template_builder as builder
from nanochat.conversation import RULES, check
from nanochat.ui.chips import Chip, chips
from nanochat.ui.conversation_template_builder import PAGE
from nanochat.ui.figures import figures
from nanochat.ui.models import opened_once, stamp_of
from nanochat.ui.pickers import pick_checkpoint
from nanochat.ui.text import plain
from nanochat.ui.tokenizer_playground import MASK_LEGEND, mask_chips

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer


def draw_verdict(value: builder.Conversation) -> bool:
    """Whether the conversation is valid and all that is wrong with it; returns whether it can be rendered."""
    problems = check(value)
    if not problems:
        st.success("Conversation is valid.", icon=":material/check_circle:")
    for problem in problems:
        where = "" if problem.message_index is None else f"Turn {problem.message_index + 1}: "
        words = plain(f"{where}{problem.sentence}; {problem.remedy}.")
        box, icon = (
            (st.error, ":material/error:") if problem.severity == "error" else (st.warning, ":material/warning:")
        )
        box(words, icon=icon)
    return not any(RULES[problem.kind].blocks for problem in problems)


def draw_mask(tokenizer: "Tokenizer", value: builder.Conversation) -> None:
    """Every token, supervised or context."""
    report = builder.supervision(tokenizer, value, max_tokens=max(builder.MAX_TOKENS, 1))
    figures(
        ("Total tokens", f"{report.tokens:,}", None),
        ("Supervised", f"{report.supervised:,}", "Tokens the model learns from."),
        ("Unsupervised", f"{report.unsupervised:,}", "Prompt and context tokens."),
        ("Supervision ratio", f"{report.ratio:.1%}", None),
    )
    show_alarm(report)
    if report.cut:
        st.warning(f"{report.cut:,} tokens lie behind nanochat's cap of {report.max_tokens:,} and are cut off.")
    chips(mask_chips(report), key=f"{PAGE}_mask", label="Tokens", legend=MASK_LEGEND)


def show_alarm(report: builder.Supervision) -> None:
    """0 % or 100 % supervised, loudly."""
    if report.alarm is not None:
        st.error(f"**{report.alarm}.**", icon=":material/notification_important:")


def draw_shifted(tokenizer: "Tokenizer", value: builder.Conversation) -> None:
    """What predicts what."""
    report = builder.supervision(tokenizer, value)
    frame = builder.shifted(report)
    st.markdown(
        f"At each position the model has read everything up to *input* and is asked for *target*. The loss counts at "
        f"**{int(frame['counts'].sum() or 0):,} of {frame.height:,}** positions: where the target is supervised. So "
        "the token before the reply is where the first word of the reply is learnt."
    )
    columns = {"position": "Position", "input": "Input", "target": "Target", "counts": "Counts"}
    st.dataframe(frame.select(*columns).rename(columns), hide_index=True, alt="What predicts what", height=420)


def draw_truncation(tokenizer: "Tokenizer", value: builder.Conversation) -> None:
    """What a cut would lose."""
    whole = builder.supervision(tokenizer, value)
    limit = st.slider("Cut to this many tokens", 1, whole.tokens, min(whole.tokens, builder.MAX_TOKENS),
                      key=f"{PAGE}_limit")  # fmt: skip
    report = builder.supervision(tokenizer, value, limit)
    st.markdown(
        f"**{report.cut:,} of {report.tokens:,}** tokens are cut off the end, **{report.cut_supervised:,}** of them "
        f"supervised, which leaves {report.supervised - report.cut_supervised:,} to learn from."
    )
    show_alarm(report)
    chips(mask_chips(report), key=f"{PAGE}_cut", label="Tokens", legend={**MASK_LEGEND, "cut": "cut off"})


def draw_loss(value: builder.Conversation) -> None:
    """The loss of every token under a checkpoint."""
    chosen = pick_checkpoint(PAGE, talking=True)
    if chosen is None:
        return
    loaded = opened_once(str(chosen.folder), chosen.step, stamp_of(chosen.folder, chosen.step))
    losses = builder.token_losses(loaded, value)
    supervised = "none" if losses.supervised_loss is None else f"{losses.supervised_loss:.3f}"
    context = "none" if losses.context_loss is None else f"{losses.context_loss:.3f}"
    figures(
        ("Supervised loss", supervised, "Nats a token. Fine-tuning makes this smaller."),
        ("Context loss", context, "Nats a token that nobody trains on in fine-tuning."),
        ("A guess costs", f"{losses.chance:.3f}", "ln of the vocabulary: what knowing nothing costs."),
    )
    worst = max(losses.chance, float(losses.frame["loss"].max() or 0.0))  # type: ignore[arg-type]
    st.caption(f"Dark is what the model expected, the brightest is a surprise of {worst:.1f} nats.")
    chips([_loss_chip(row, worst) for row in losses.frame.iter_rows(named=True)], key=f"{PAGE}_loss",
          label="Tokens by loss")  # fmt: skip
    if losses.beyond:
        st.warning(f"{losses.beyond:,} tokens lie beyond the model's context of {losses.context:,}.")
    with st.expander("As a table"):
        columns = ("index", "text", "supervised", "loss", "probability", "likeliest", "likeliest_probability")
        st.dataframe(losses.frame.select(columns), hide_index=True, alt="The loss of every token")


def _loss_chip(row: dict[str, Any], worst: float) -> Chip:
    if row["loss"] is None:
        return Chip(row["text"], row["id"], "nothing predicts the first token", "special")
    words = (
        f"{row['loss']:.3f} nats, probability {row['probability']:.2%}\n"
        f"likeliest: {row['likeliest']} ({row['likeliest_probability']:.0%})"
    )
    text = row["text"] if row["special"] else row["text"].replace("·", " ").replace("⏎", "\n")
    style = "supervised" if row["supervised"] else "context"
    return Chip(text, row["id"], f"{words}\n{style}", style, heat=row["loss"] / worst)


VIEWS: dict[str, Callable[["Tokenizer", builder.Conversation], None]] = {
    "Mask": draw_mask,
    "Shifted": draw_shifted,
    "Truncation": draw_truncation,
}
