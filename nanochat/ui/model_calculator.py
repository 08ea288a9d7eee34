"""The model calculator's parts: which model, where its parameters are, what it takes in memory, time and money."""

from dataclasses import replace

import polars as pl
import streamlit as st

from nanochat.analysis import model_calculator as calc
from nanochat.analysis.model_calculator import Breakdown, CalculatorError, Plan
from nanochat.analysis.model_calculator.gpus import names as gpu_names
from nanochat.paths import readable_size
from nanochat.ui.figures import figures
from nanochat.ui.states import go_to

PAGE = "model_calculator"
OWN = "sizes of my own"
FAMILY_WORDS = {
    "nanochat": "nanochat, the newest",
    "generic": "textbook GPT",
    "gpt2": "GPT-2",
    "llama": "Llama, with grouped keys",
    "gptneox": "GPT-NeoX",
} | {f"nanochat_{day}": f"nanochat since {day}" for day in reversed(list(calc.ERAS)[:-1])}


def choose_model() -> Breakdown:
    """A preset, or a family and its sizes. Raises CalculatorError."""
    choices = [OWN, *calc.PRESETS]
    left, right = st.columns(2)
    name = left.selectbox("Model", choices, key=f"{PAGE}_preset", bind="query-params")
    if name in calc.PRESETS:
        return calc.preset(name)
    family = right.selectbox("Family", list(FAMILY_WORDS), key=f"{PAGE}_family", bind="query-params")
    family = family or "nanochat"
    right.caption(FAMILY_WORDS[family])
    depth = st.slider("Depth, in layers", 1, 64, 12, key=f"{PAGE}_depth", bind="query-params")
    if family.startswith("nanochat"):
        with st.expander("More sizes: they follow from the depth"):
            vocab = st.select_slider("Vocabulary", [2**n for n in range(8, 18)], 32768, key=f"{PAGE}_vocab")
            context = st.select_slider("Context", [2**n for n in range(6, 16)], 2048, key=f"{PAGE}_context")
        return calc.count_parameters(family, n_layer=depth, vocab=vocab, context=context)
    columns = st.columns(3)
    width = columns[0].select_slider(
        "Width", [64 * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 128)], 768,
        key=f"{PAGE}_width", bind="query-params",
    )  # fmt: skip
    heads = columns[1].select_slider(
        "Heads", [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128], 12, key=f"{PAGE}_heads"
    )
    vocab = columns[2].number_input("Vocabulary", 1, 2**24, 50257, key=f"{PAGE}_words")
    more = {}
    if family == "llama":
        more["n_kv_head"] = st.select_slider("Key/value heads", [1, 2, 4, 8, 12, 16, 32], 4, key=f"{PAGE}_kv")
        more["d_ff"] = int(st.number_input("Width of the MLP", 1, 2**20, 4 * int(width), key=f"{PAGE}_mlp"))
    return calc.count_parameters(family, n_layer=depth, d_model=width, n_head=heads, vocab=int(vocab), **more)


def draw_parameters(model: Breakdown) -> None:
    """How many, where, and by which formula."""
    from nanochat.charts.model_calculator import parts_chart

    figures(
        ("Parameters", f"{model.total:,}"),
        ("Multiplied with every token", f"{model.matrices:,}"),
        ("FLOPs a token", f"{calc.flops_per_token(model):,}"),
    )
    rows = [
        {
            "part": part.name, "parameters": part.total, "share": part.total / model.total, "kind": part.kind,
            "one has": part.each, "how many": part.times, "formula": part.formula, "with the values": part.values,
        }
        for part in model.parts
    ]  # fmt: skip
    frame = pl.DataFrame(rows)
    chart = parts_chart(frame.select("part", "kind", "parameters", "share")).properties(height=28 * len(rows) + 70)
    st.altair_chart(chart, alt="Parameters by part", width="stretch")
    with st.expander("Every number with its formula"):
        st.dataframe(
            rows, hide_index=True, alt="Parts with their formulas",
            column_config={"share": st.column_config.NumberColumn(format="percent")},
        )  # fmt: skip
        st.caption("V vocabulary, d width, L layers, H heads, K key/value heads, h width of a head, T context.")
        formula, values = calc.flops_in_words(model)
        st.code(f"FLOPs a token = {formula}\n              = {values}\n              = {calc.flops_per_token(model):,}",
                language=None, wrap_lines=True)  # fmt: skip
        st.caption("M: parameters of matrices that every token is multiplied with; 6 = 2 forward and 4 backward.")
    _verified(model)


@st.cache_data(max_entries=32, show_spinner="Building the model without its weights")
def _counted(_model: Breakdown, config: str) -> calc.Count:
    return calc.count_on_meta(_model)


@st.cache_data(max_entries=8, show_spinner="Running four steps on this machine")
def _measured(_model: Breakdown, config: str) -> calc.Measured:
    return calc.measure(_model)


def _verified(model: Breakdown) -> None:
    """The count and the estimate held against the real model."""
    if model.config is None:
        st.caption("This family is counted by formula alone: the project does not build it.")
        return
    with st.expander("Is that so? Held against the real model"):
        if st.toggle("Count the real model's parameters", key=f"{PAGE}_verify"):
            count = _counted(model, repr(model.config))
            words = "equal" if count.equal else "NOT equal"
            st.markdown(f"sum(p.numel()) of the real model: **{count.model:,}**, {words}.")
        st.markdown("A training step of 4 sequences of 128 tokens, in a process of its own, in float32:")
        if st.button("Run a step here", key=f"{PAGE}_measure", icon=":material/timer:"):
            try:
                step = _measured(model, repr(model.config))
            except CalculatorError as refusal:
                st.warning(str(refusal), icon=":material/warning:")
                return
            st.dataframe(
                [
                    {"": "seconds a step", "estimate": f"{step.estimated_seconds:.3f}",
                     "measured": f"{step.seconds:.3f}"},
                    {"": "peak memory", "estimate": readable_size(step.estimated_memory),
                     "measured": readable_size(step.memory)},
                ],
                hide_index=True, alt="Estimate and measurement",
            )  # fmt: skip


def draw_memory(model: Breakdown) -> None:
    """What one GPU holds, by how the training is cut."""
    from nanochat.charts.model_calculator import memory_chart

    columns = st.columns(4)
    dtype = columns[0].selectbox("Numbers", ["bf16", "fp32"], key=f"{PAGE}_dtype", bind="query-params")
    optimizer = columns[1].selectbox("Optimizer", list(calc.OPTIMIZERS), key=f"{PAGE}_optimizer", bind="query-params")
    recompute = columns[2].selectbox(
        "Computed twice", list(calc.RECOMPUTE), 1, key=f"{PAGE}_recompute", help="Less is kept for the backward pass."
    )
    devices = columns[3].number_input("GPUs", 1, 100_000, 8, key=f"{PAGE}_gpus", bind="query-params")
    rows = st.slider("Sequences a GPU works on at once", 1, 128, 8, key=f"{PAGE}_rows", bind="query-params")
    on = calc.gpu(st.selectbox("GPU", gpu_names(), 2, key=f"{PAGE}_gpu", bind="query-params") or "H100")
    plan = Plan(dtype or "bf16", optimizer or "adamw", True, rows, recompute or "attention", 0, int(devices))
    bars, table = [], []
    for stage, cut in calc.STAGES.items():
        items = calc.training_memory(model, replace(plan, zero=stage))
        label = f"ZeRO {stage}: {cut} cut"
        bars += [(f"ZeRO {stage}", item.name, item.size / 1e9) for item in items]
        fits = calc.largest_rows(model, replace(plan, zero=stage), on.memory)
        table.append({"": label, "GB a GPU": sum(item.size for item in items) / 1e9, "most sequences that fit": fits})
    frame = pl.DataFrame(bars, ["stage", "item", "gigabytes"], orient="row")
    limit = on.memory / 1e9
    st.altair_chart(memory_chart(frame, limit).properties(height=240), alt="Memory by ZeRO stage", width="stretch")
    st.dataframe(
        table, hide_index=True, alt="Memory and the largest batch by ZeRO stage",
        column_config={"GB a GPU": st.column_config.NumberColumn(format="%.2f")},
    )  # fmt: skip
    with st.expander("Every number with its formula"):
        items = calc.training_memory(model, plan)
        st.dataframe(
            [
                {"item": item.name, "GiB": calc.gib(item.size), "GB": item.size / 1e9, "formula": item.formula,
                 "with the values": item.values}
                for item in items
            ],
            hide_index=True, alt="Memory with its formulas",
        )  # fmt: skip
        each = calc.kv_bytes_a_token(model)
        st.markdown(
            f"Writing needs the weights ({readable_size(calc.weights_bytes(model, 'bf16'))} in bf16) and a cache of "
            f"{each:,} bytes a token: 2 L K h bytes = 2 x {model.layers} x {model.kv_heads} x {model.head_width} x 2, "
            f"{readable_size(each * model.context)} for a full context of {model.context:,}."
        )
        st.caption("GB is 10^9 bytes, GiB 2^30. Activations after Korthikanti et al. 2022, cutting after ZeRO, 2019.")


def draw_training(model: Breakdown) -> None:
    """FLOPs, time, money, and how long it should be."""
    columns = st.columns(3)
    on = calc.gpu(columns[0].selectbox("GPU", gpu_names(), 2, key=f"{PAGE}_train_gpu", bind="query-params") or "H100")
    devices = columns[1].number_input("GPUs", 1, 100_000, 8, key=f"{PAGE}_train_gpus", bind="query-params")
    price = columns[2].number_input("Dollars an hour for one", 0.0, 1e5, on.dollars, key=f"{PAGE}_price_{on.name}")
    mfu = st.slider(
        "Share of the peak that training reaches (MFU)", 0.05, 0.7, calc.HONEST_MFU, 0.01, key=f"{PAGE}_mfu",
        help="nanochat's d20 reached 47.9 % on eight H100.",
    )  # fmt: skip
    wanted, rule = calc.nanochat_tokens(model)
    billions = st.number_input(
        "Billions of tokens", 0.001, 1e6, max(wanted / 1e9, 0.001), key=f"{PAGE}_tokens_{model.total}", format="%.3f",
        help="What nanochat would take, to begin with.",
    )  # fmt: skip
    run = calc.training(model, int(billions * 1e9), 2**19, None, on, int(devices), mfu, price)
    figures(
        ("Time", _clock(run.seconds)),
        ("Cost", f"${run.dollars or 0:,.2f}"),
        ("Tokens a second", f"{run.tokens_a_second:,.0f}"),
        ("Total FLOPs", f"{run.flops:.3g}"),
    )
    st.markdown(
        f"nanochat would take **{wanted / 1e9:,.2f} billion tokens**: {rule}. Each parameter would see "
        f"{run.tokens / model.total:,.1f} tokens of yours; Chinchilla's rule is 20."
    )
    with st.expander("Every number with its formula"):
        st.code(
            f"FLOPs  = tokens x FLOPs a token = {run.tokens:,} x {run.flops_a_token:,}\n"
            f"time   = FLOPs / (GPUs x peak x MFU) = {run.flops:.4g} / ({devices} x {on.peak:.4g} x {mfu:g}) s\n"
            f"cost   = hours x GPUs x price = {run.seconds / 3600:,.2f} x {devices} x ${price:g}",
            language=None, wrap_lines=True,
        )  # fmt: skip
        st.caption(f"Peaks: dense bfloat16 of the makers' data sheets. Prices: round figures of {calc.PRICES_AS_OF}.")


def draw_budget() -> None:
    """The way back: what depth a budget buys."""
    columns = st.columns(3)
    kind = columns[0].segmented_control(
        "Budget in",
        ["dollars", "hours", "GB"],
        default="dollars",
        required=True,
        key=f"{PAGE}_budget_kind",
        bind="query-params",
    )
    kind = kind or "dollars"
    start = {"dollars": 100.0, "hours": 4.0, "GB": 80.0}[kind]
    amount = columns[1].number_input("How much", 0.01, 1e9, start, key=f"{PAGE}_budget_{kind}")
    devices = columns[2].number_input("GPUs", 1, 100_000, 8, key=f"{PAGE}_budget_gpus", bind="query-params")
    on = calc.gpu(st.selectbox("GPU", gpu_names(), 2, key=f"{PAGE}_budget_gpu", bind="query-params") or "H100")
    field = {"dollars": "dollars", "hours": "hours", "GB": "gigabytes"}[kind]
    found = calc.buy(on, int(devices), **{field: amount})  # type: ignore[arg-type]
    if found.model is None or found.training is None:
        st.warning(f"It buys nothing: {found.reason}.", icon=":material/warning:")
        return
    st.markdown(f"### Depth {found.depth}")
    figures(
        ("Parameters", f"{found.model.total / 1e9:,.3f} billion"),
        ("Tokens", f"{found.training.tokens / 1e9:,.2f} billion"),
        ("Time", _clock(found.training.seconds)),
        ("Cost", f"${found.training.dollars or 0:,.2f}"),
    )
    st.caption(f"The newest nanochat, trained for as long as its own rule says. The limit: {found.reason}.")
    go_to("train", "Train one here")


def _clock(seconds: float) -> str:
    for limit, unit, word in ((120, 1.0, "s"), (7200, 60.0, "min"), (172_800, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {word}"
    return f"{seconds / 86_400:,.1f} days"
