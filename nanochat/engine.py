"""From a prompt to tokens: prefill once, then one token a step, in one row or many, with tools.

    engine = Engine(model, tokenizer)
    for tokens, masks in engine.generate(tokenizer.encode("Once", prepend="<|bos|>"), max_tokens=50, temperature=0.8):
        ...

`generate` streams columns (a token per row); `generate_batch` collects them. Each row has its own length, end, tool
state and random numbers: what a row says depends on its prompt, its settings and its seed, not on its neighbours.
`TextStream` turns tokens into text without ever cutting a character in two.

Legend: B rows, T tokens, V vocabulary.
"""

import codecs
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kernels
from nanochat.decode import Decoder
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.tool_use import ToolUse, run_python

if TYPE_CHECKING:  # the benchmark runs this file on machines that have torch and nothing else
    from nanochat.tokenizer import Tokenizer

ROW_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: seeds of the rows of one batch lie far apart
ROPE_REACH = 10  # upstream computes rotary angles up to ten contexts; so far a text may run

Setting = float | int | Sequence[float] | None  # one for all rows, or one per row


class EngineError(ValueError):
    """A prompt or a setting that cannot be run, or a model that gives no numbers: one sentence."""


@dataclass
class _Row:
    """What the engine remembers of one row between steps."""

    tools: ToolUse
    forced: deque[int] = field(default_factory=deque)  # tokens that come next whatever the model says
    done: bool = False


class Engine:
    """A model and its tokenizer, ready to write. Safe to share: all state of a generation lives in its generator."""

    def __init__(self, model: GPT, tokenizer: "Tokenizer", *, python: bool = False, trust_model: bool = False) -> None:
        """python: let the model run Python in the sandbox; off, only the calculator answers its tool calls.

        trust_model: run it also where there is no sandbox. `notes` then holds the warning to show.
        """
        if tokenizer.get_vocab_size() != model.config.vocab_size:
            raise EngineError(
                f"the tokenizer has {tokenizer.get_vocab_size():,} tokens and the model {model.config.vocab_size:,}; "
                "load the tokenizer that this model was trained with"
            )
        self.model, self.tokenizer = model, tokenizer
        self.ends = frozenset((tokenizer.encode_special("<|assistant_end|>"), tokenizer.get_bos_token_id()))
        self._python: Callable[[str], str | None] | None = None
        self.notes: tuple[str, ...] = ()  # what the user must be told
        if python:
            self._python, self.notes = _python_tool(trust_model)

    def generate(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]],
        num_samples: int = 1,
        max_tokens: int | None = None,
        temperature: Setting = 1.0,
        top_k: Setting = None,
        top_p: Setting = None,
        min_p: Setting = None,
        seed: int | Sequence[int] = 42,
    ) -> Iterator[tuple[list[int | None], list[int]]]:
        """Stream columns: (a token per row, 1 where the model chose it and 0 where a tool forced it).

        tokens: one prompt, continued `num_samples` times, or a list of prompts, one row each. A row ends with
        <|assistant_end|> or <|bos|>, which is its last token; after that its entries are None. max_tokens counts
        columns (None: up to the end of the context). Settings are one number, or one per row. Row i of one seed draws
        from seed + i * ROW_STRIDE, so row 0 says what it would say alone.
        Raises EngineError or KernelInputError, naming the setting, before the first column; a model whose logits are
        not numbers raises EngineError when it comes to them.
        """
        prompts = self._prompts(tokens, num_samples)
        limit = self._limit(prompts, max_tokens)
        rows = len(prompts) if len(prompts) > 1 else num_samples
        settings = {
            name: self._per_row(name, value, rows)
            for name, value in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p), ("min_p", min_p))
        }
        if isinstance(seed, int):
            seeds = [seed + row * ROW_STRIDE for row in range(rows)]
        else:
            seeds = [int(value) for value in self._per_row_list("seed", seed, rows)]
        logits, cache = self._prefill(prompts, rows)
        draw = _Draw(settings, torch.tensor([_signed(value) for value in seeds], device=logits.device))
        first = draw(logits, 0)  # a setting that is out of range is refused here, before anything is streamed
        return self._stream(first, cache, draw, limit, Decoder(self.model))

    def generate_batch(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]],
        num_samples: int = 1,
        max_tokens: int | None = None,
        temperature: Setting = 1.0,
        top_k: Setting = None,
        top_p: Setting = None,
        min_p: Setting = None,
        seed: int | Sequence[int] = 42,
    ) -> tuple[list[list[int]], list[list[int]]]:
        """`generate`, collected: (prompt and reply of each row without its end, masks with 0 for prompt and tools)."""
        columns = self.generate(tokens, num_samples, max_tokens, temperature, top_k, top_p, min_p, seed)
        prompts = self._prompts(tokens, num_samples)
        results = [list(prompt) for prompt in (prompts if len(prompts) > 1 else prompts * num_samples)]
        masks = [[0] * len(row) for row in results]
        for token_column, mask_column in columns:
            for row, (token, mask) in enumerate(zip(token_column, mask_column, strict=True)):
                if token is not None and token not in self.ends:
                    results[row].append(token)
                    masks[row].append(mask)
        return results, masks

    def _stream(
        self, sampled: list[int], cache: KVCache, draw: "_Draw", limit: int, decoder: Decoder
    ) -> Iterator[tuple[list[int | None], list[int]]]:
        """One column per step. `active` names the rows that the cache still holds, in the cache's order."""
        rows = [_Row(ToolUse(self.tokenizer, self._python)) for _ in cache.lengths]
        active = list(range(len(rows)))
        for step in range(limit):
            column: list[int | None] = [None] * len(rows)
            mask = [0] * len(rows)
            following = []
            for place, token in zip(active, sampled, strict=True):
                row = rows[place]
                if not row.done:
                    if token < 0:
                        raise EngineError(
                            "the model's logits are not numbers (NaN); its weights are damaged: verify the checkpoint"
                        )
                    mask[place] = 0 if row.forced else 1
                    token = row.forced.popleft() if row.forced else token
                    column[place] = token
                    row.forced.extend(row.tools.push(token))
                    row.done = token in self.ends
                following.append(max(token, 0))
            yield column, mask
            alive = [i for i, place in enumerate(active) if not rows[place].done]
            if not alive or step + 1 == limit:
                return
            if 2 * len(alive) <= len(active):  # half the rows have ended: stop computing them
                cache = cache.select(alive)
                draw = draw.select(alive)
                active, following = [active[i] for i in alive], [following[i] for i in alive]
            ids = torch.tensor(following, device=cache.lens_after.device)
            sampled = draw(decoder.step(ids, cache), step + 1)

    @torch.inference_mode()
    def _prefill(self, prompts: list[list[int]], rows: int) -> tuple[Tensor, KVCache]:
        """Run every prompt once; the logits (B, V) behind the last token of each row, and the cache to go on from."""
        config, weight = self.model.config, self.model.lm_head.weight
        logits, caches = [], []
        for prompt in prompts:
            cache = KVCache(
                config.n_layer, 1, config.n_kv_head, config.head_dim, dtype=weight.dtype, device=weight.device
            )
            hidden = self.model.hidden(torch.tensor([prompt], device=weight.device), cache)
            logits.append(self.model.logits(hidden[:, -1]))
            caches.append(cache)
        if len(caches) > 1:
            return torch.cat(logits), KVCache.join(caches)
        return (logits[0], caches[0]) if rows == 1 else (logits[0].expand(rows, -1), caches[0].select([0] * rows))

    def _prompts(self, tokens: Any, num_samples: int) -> list[list[int]]:
        """The prompts as lists, checked. Token ids may be any whole numbers, numpy's and torch's too."""
        several = len(tokens) > 0 and isinstance(tokens[0], Sequence)
        try:
            prompts = [[index(token) for token in prompt] for prompt in (tokens if several else [tokens])]
        except TypeError:
            raise EngineError(
                "the prompt is not a list of token ids; encode its text first: tokenizer.encode"
            ) from None
        context, vocabulary = self.model.config.sequence_len, self.model.config.vocab_size
        if num_samples < 1 or (several and num_samples != 1):
            raise EngineError(f"num_samples is {num_samples}; give at least 1, and exactly 1 with several prompts")
        for prompt in prompts:
            if not prompt:
                raise EngineError(
                    "the prompt is empty; begin with the token <|bos|>, as in encode(text, prepend='<|bos|>')"
                )
            if len(prompt) > context:
                raise EngineError(
                    f"the prompt has {len(prompt):,} tokens and the model's context holds {context:,}; shorten it by "
                    f"{len(prompt) - context:,}"
                )
            wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
            if wrong is not None:
                raise EngineError(
                    f"token {wrong} is not in the vocabulary of {vocabulary:,}; encode with the model's tokenizer"
                )
        return prompts

    def _limit(self, prompts: list[list[int]], max_tokens: int | None) -> int:
        """How many columns at most."""
        context, longest = self.model.config.sequence_len, max(len(prompt) for prompt in prompts)
        if max_tokens is None:
            return max(context - longest, 1)
        if not 0 <= max_tokens <= ROPE_REACH * context - longest:
            raise EngineError(
                f"max_tokens is {max_tokens:,}; with this prompt give 0 to {ROPE_REACH * context - longest:,} "
                f"({ROPE_REACH} contexts of {context:,} tokens)"
            )
        return max_tokens

    def _per_row(self, name: str, value: Setting, rows: int) -> float | int | Tensor | None:
        """A setting as the sampler takes it; in a tensor as precise as a Python number, so that rows stay equal."""
        if value is None or isinstance(value, int | float):
            return value
        device = self.model.lm_head.weight.device
        real = torch.float32 if device.type == "mps" else torch.float64
        dtype = torch.int64 if name == "top_k" else real
        return torch.tensor(self._per_row_list(name, value, rows), device=device, dtype=dtype)

    def _per_row_list(self, name: str, values: Sequence[float], rows: int) -> list[float]:
        if isinstance(values, str) or len(values) != rows:
            raise EngineError(f"{name} is {values!r:.60} for {rows} rows; give one number, or one for each row")
        return list(values)


@dataclass(frozen=True)
class _Draw:
    """The sampling settings of the rows in the cache; called with logits (B, V) and a step, it draws a token a row."""

    settings: dict[str, Any]  # temperature, top_k, top_p, min_p: a number, a tensor (B,), or None
    seeds: Tensor  # (B,)

    def __call__(self, logits: Tensor, step: int) -> list[int]:
        return kernels.sample(logits, **self.settings, seed=self.seeds, step=step).token.tolist()

    def select(self, rows: list[int]) -> "_Draw":
        settings = {key: value[rows] if isinstance(value, Tensor) else value for key, value in self.settings.items()}
        return _Draw(settings, self.seeds[rows])


class TextStream:
    """Tokens in, text out, never half a character: bytes wait until the character they belong to is whole."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that is certain once this token is known; may be empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What is left: a replacement character for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)


def _python_tool(trust_model: bool) -> tuple[Callable[[str], str | None], tuple[str, ...]]:
    """The Python tool and what the user must be told of it; an EngineError where it may not run on this machine."""
    from nanochat.execution import UNCONTAINED_BANNER, sandbox_status

    status = sandbox_status()
    if status.available:
        return run_python, ()
    if not trust_model:
        raise EngineError(
            f"Python cannot be contained here ({status.reason}); go on without it: the calculator still answers"
        )
    return partial(run_python, trust_model=True), (UNCONTAINED_BANNER,)


def _signed(seed: int) -> int:
    """The seed's low 64 bits as the signed number that a tensor holds."""
    return (seed + 2**63) % 2**64 - 2**63
