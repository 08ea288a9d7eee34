"""How fast the engine writes, beside a plain decode loop and Hugging Face's Llama of the same size, in one run.

    python -m nanochat.benchmarks.engine                 # both shapes, batch 1 and 8, one thread
    python -m nanochat.benchmarks.engine --shape l4d256 --batch 8 --json

Every round runs each candidate once, one after the other, so that a machine whose speed drifts slows them alike; the
ratio is taken round by round and its median reported. Time is the process's CPU time, on as many threads as --threads
says. Weights are random: the work is the same. "GEMMs alone" is the time of the matrix products of a step and nothing
else, which no engine on this machine can beat.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.decode import Decoder
from nanochat.engine import Engine
from nanochat.gpt import GPT, GPTConfig, norm

SHAPES = {
    "d4": GPTConfig(sequence_len=256, vocab_size=1024, n_layer=4, n_head=2, n_kv_head=2, n_embd=32),
    "l4d256": GPTConfig(sequence_len=256, vocab_size=1024, n_layer=4, n_head=4, n_kv_head=4, n_embd=256),
}
PROMPT = 16  # tokens before the clock starts


@dataclass(frozen=True)
class Record:
    """One candidate at one shape and batch."""

    shape: str
    batch: int
    name: str
    tokens_per_cpu_second: float  # median over the rounds
    spread: tuple[float, float]  # slowest and fastest round
    ratio: float  # engine's speed over this candidate's, median of the rounds' ratios


class NoTokenizer:
    """The engine's view of a tokenizer, with no special token that a random model could ever draw."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def get_vocab_size(self) -> int:
        return self.vocab_size

    def encode_special(self, name: str) -> int:
        return -2 - len(name)

    def get_bos_token_id(self) -> int:
        return -1


@torch.inference_mode()
def plain_loop(model: GPT, prompt: list[int], rows: int, count: int, temperature: float, top_k: int) -> Tensor:
    """The baseline, as one first writes it: static cache, one projection at a time, multinomial sampling."""
    c, D = model.config, model.config.head_dim
    total = len(prompt) + count
    keys = torch.zeros(c.n_layer, rows, c.n_kv_head, total, D)
    values = torch.zeros_like(keys)
    cos, sin = (table[0, :total] for table in model.rope(total, torch.device("cpu")))
    previous = None
    ids, position, out = torch.tensor([prompt] * rows), 0, []
    for _ in range(count):
        T = ids.size(1)
        x = norm(model.wte(ids))
        if c.smear:
            before = torch.zeros_like(x[:, :1]) if previous is None else previous
            shifted, previous = torch.cat([before, x[:, :-1]], 1), x[:, -1:]
            x = x + model.smear_lambda * torch.sigmoid(model.smear_gate(x[..., : c.smear_channels])) * shifted
        x0 = middle = x
        for i, block in enumerate(model.blocks):
            x = model.resid_lambdas[i] * x + model.x0_lambdas[i] * x0
            h, a = norm(x), block.attn
            q, k, v = (m(h).view(rows, T, -1, D) for m in (a.c_q, a.c_k, a.c_v))
            if i in c.value_layers:
                assert a.ve_gate is not None
                gate = c.gate_scale * torch.sigmoid(a.ve_gate(h[..., : c.gate_channels]))
                v = v + gate.unsqueeze(-1) * model.value_embed(i)(ids).view(v.shape)
            q, k = (_rotate(t, cos[position : position + T], sin[position : position + T]) for t in (q, k))
            q, k = norm(q) * c.qk_gain, norm(k) * c.qk_gain
            keys[i, :, :, position : position + T] = k.transpose(1, 2)
            values[i, :, :, position : position + T] = v.transpose(1, 2)
            y = F.scaled_dot_product_attention(
                q.transpose(1, 2), keys[i, :, :, : position + T], values[i, :, :, : position + T], is_causal=T > 1
            )
            x = x + a.c_proj(y.transpose(1, 2).reshape(rows, T, -1))
            x = x + block.mlp(norm(x))
            middle = x if i == c.n_layer // 2 else middle
        x = norm(x - model.backout_lambda * middle)
        logits = c.softcap * torch.tanh(model.lm_head(x[:, -1]).float() / c.softcap)
        if temperature == 0:
            ids = logits.argmax(-1, keepdim=True)
        else:
            best, places = torch.topk(logits / temperature, top_k)
            ids = places.gather(1, torch.multinomial(F.softmax(best, -1), 1))
        position += T
        out.append(ids)
    return torch.cat(out, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, -x1 * sin + x2 * cos], -1)


def random_model(config: GPTConfig) -> GPT:
    """Random weights of a plausible size, prepared for inference."""
    torch.manual_seed(0)
    model = GPT(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.02)
    return model.lay_out_for_inference()


def candidates(config: GPTConfig, rows: int, count: int, temperature: float) -> dict[str, Callable[[], object]]:
    """Name -> a function that writes `count` tokens in `rows` rows, the engine first."""
    model = random_model(config)
    engine = Engine(model, NoTokenizer(config.vocab_size))  # type: ignore[arg-type]
    prompt = [(7 * i) % config.vocab_size for i in range(PROMPT)]
    runs: dict[str, Callable[[], object]] = {
        "engine": lambda: engine.generate_batch(prompt, rows, max_tokens=count, temperature=temperature, top_k=50),
        "plain loop": lambda: plain_loop(model, prompt, rows, count, temperature, 50),
        "GEMMs alone": _gemms(model, rows, count),
    }
    llama = _llama(config, prompt, rows, count, temperature)
    return {**runs, "HF Llama": llama} if llama else runs


def _gemms(model: GPT, rows: int, count: int) -> Callable[[], object]:
    """Only the matrix products of `count` steps."""
    decoder = Decoder(model)
    weights = [decoder.head]
    for layer in decoder.layers:
        weights += [layer.qkv, layer.proj, layer.fc, layer.out]
    inputs = [torch.randn(rows, w.size(0)) for w in weights]

    @torch.inference_mode()
    def run() -> None:
        for _ in range(count):
            for x, w in zip(inputs, weights, strict=True):
                torch.mm(x, w)

    return run


def _llama(
    config: GPTConfig, prompt: list[int], rows: int, count: int, temperature: float
) -> Callable[[], object] | None:
    """Hugging Face's Llama with the same layers and width, where transformers is installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=config.n_embd * 8 // 3,  # three matrices of 8/3 C are as many weights as two of 4 C
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            max_position_embeddings=config.sequence_len,
        )
    ).eval()
    ids = torch.tensor([prompt] * rows)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 50} if temperature else {"do_sample": False}
    return lambda: llama.generate(
        ids, attention_mask=torch.ones_like(ids), min_new_tokens=count, max_new_tokens=count, pad_token_id=0, **sampling
    )


def measure(shape: str, rows: int, count: int, rounds: int, temperature: float) -> list[Record]:
    """Each candidate `rounds` times, interleaved, after one round that does not count."""
    runs = candidates(SHAPES[shape], rows, count, temperature)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            elapsed = time.process_time() - begin
            if round_number:
                speeds[name].append(rows * count / elapsed)
    return [
        Record(
            shape,
            rows,
            name,
            statistics.median(values),
            (min(values), max(values)),
            statistics.median(e / v for e, v in zip(speeds["engine"], values, strict=True)),
        )
        for name, values in speeds.items()
    ]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(
        prog="python -m nanochat.benchmarks.engine", description="Decode speed, paired in one run."
    )
    p.add_argument("--shape", nargs="+", default=list(SHAPES), choices=list(SHAPES), help="models to run (all)")
    p.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="rows decoded together (1 8)")
    p.add_argument("--tokens", type=int, default=128, help="tokens a row (128)")
    p.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    p.add_argument("--temperature", type=float, default=0.8, help="0 for greedy (0.8)")
    p.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    records = [
        record
        for shape in args.shape
        for rows in args.batch
        for record in measure(shape, rows, args.tokens, args.rounds, args.temperature)
    ]
    if args.json:
        print(
            json.dumps({"torch": torch.__version__, "threads": args.threads, "records": [asdict(r) for r in records]})
        )
        return 0
    print(f"torch {torch.__version__}, {args.threads} thread(s), {args.tokens} tokens a row, {args.rounds} rounds")
    print(f"{'shape':8} {'rows':>4} {'candidate':12} {'tokens/CPU s':>13} {'slowest-fastest':>17} {'engine is':>10}")
    for r in records:
        low, high = r.spread
        spread = f"{low:,.0f}-{high:,.0f}"
        print(f"{r.shape:8} {r.batch:4} {r.name:12} {r.tokens_per_cpu_second:13,.0f} {spread:>17} {r.ratio:9.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
