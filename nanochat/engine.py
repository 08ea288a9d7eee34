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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kernels
from nanochat.decode import Decoder
from nanochat.generation import EngineError, Request, check_request
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.safe_load import available_memory
from nanochat.threads import few_threads
from nanochat.tool_use import ToolUse, run_python

if TYPE_CHECKING:  # the benchmark runs this file on machines that have torch and nothing else
    from nanochat.kept_cache import KeptCache
    from nanochat.tokenizer import Tokenizer


Setting = float | int | Sequence[float] | None  # one for all rows, or one per row


@dataclass
class _Row:
    """What the engine remembers of one row between steps."""

    tools: ToolUse
    left: int  # tokens it may still take
    forced: deque[int] = field(default_factory=deque)  # tokens that come next whatever the model says
    done: bool = False


class Engine:
    """A model and its tokenizer, ready to write. Safe to share: all state of a generation lives in its generator."""

    def __init__(
        self,
        model: GPT,
        tokenizer: "Tokenizer",
        *,
        python: bool = False,
        trust_model: bool = False,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """python: let the model run Python in the sandbox; off, only the calculator answers its tool calls.

        trust_model: run it also where there is no sandbox. `notes` then holds the warning to show.
        aside: entered while a program runs, for whoever lends the model to others meanwhile.
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
            tool, self.notes = _python_tool(trust_model)
            self._python = partial(_run_aside, tool, aside)

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
        kept: "KeptCache | None" = None,
    ) -> Iterator[tuple[list[int | None], list[int]]]:
        """Stream columns: (a token per row, 1 where the model chose it and 0 where a tool forced it).

        tokens: one prompt, continued `num_samples` times, or a list of prompts, one row each. A row ends with
        <|assistant_end|> or <|bos|>, which is its last token; after that its entries are None. max_tokens: the most
        that a row takes (None: up to the end of its context). Settings are one number, or one per row. Row i of one
        seed draws from seed + i * ROW_STRIDE, so row 0 says what it would say alone.
        kept: for a single row, what its conversation has been read of before; it is read on from there, and kept anew.
        Raises EngineError or KernelInputError, naming the setting, before the first column; a model whose logits are
        not numbers raises EngineError when it comes to them.
        """
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        request = check_request(self.model.config, tokens, num_samples, max_tokens, seed, settings)
        if kept is not None and request.rows > 1:
            raise EngineError(f"a kept cache is of one text and {request.rows:,} are asked for; write them without")
        return self._start(request, kept)

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
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        request = check_request(self.model.config, tokens, num_samples, max_tokens, seed, settings)
        results = [list(prompt) for prompt in (request.prompts * (request.rows // len(request.prompts)))]
        masks = [[0] * len(row) for row in results]
        for token_column, mask_column in self._start(request):
            for row, (token, mask) in enumerate(zip(token_column, mask_column, strict=True)):
                if token is not None and token not in self.ends:
                    results[row].append(token)
                    masks[row].append(mask)
        return results, masks

    def _start(self, request: Request, kept: "KeptCache | None" = None) -> Iterator[tuple[list[int | None], list[int]]]:
        """Run the prompts and the first draw now, so that what cannot be run is said before anything is streamed."""
        self._require_memory(request)
        decoder = Decoder(self.model)
        with few_threads(decoder.size * sum(map(len, request.prompts))):
            logits, cache = self._prefill(request.prompts, request.rows, kept)
        draw = _Draw.of(request, logits.device)
        columns = self._stream(draw(logits, 0), cache, draw, request.limits, decoder)
        return columns if kept is None else self._keeping(columns, kept, request.prompts[0], cache)

    def _keeping(
        self,
        columns: Iterator[tuple[list[int | None], list[int]]],
        kept: "KeptCache",
        prompt: list[int],
        cache: KVCache,
    ) -> Iterator[tuple[list[int | None], list[int]]]:
        """The columns of one row, and its cache kept at their end or where their reader stops; not where they fail."""
        ids = list(prompt)
        try:
            for column in columns:
                if (token := column[0][0]) is not None:
                    ids.append(token)
                yield column
        except GeneratorExit:
            kept.give(self.model, ids[: cache.length], len(prompt), cache)
            raise
        kept.give(self.model, ids[: cache.length], len(prompt), cache)  # the last token was never read

    def _require_memory(self, request: Request) -> None:
        """Refuse more rows than a CPU has memory for, with the figures; a GPU says so itself, at once."""
        config, weight = self.model.config, self.model.lm_head.weight
        length = max(map(len, request.prompts)) + max(request.limits)
        a_token = 2 * config.n_layer * config.n_kv_head * config.head_dim * weight.element_size()
        need = request.rows * (length * a_token + 16 * config.vocab_size)
        free = available_memory() if weight.device.type == "cpu" else None
        if free is not None and need > free:
            raise EngineError(
                f"{request.rows:,} rows of up to {length:,} tokens need {need / 1e9:,.1f} GB and {free / 1e9:,.1f} GB "
                "are free; write fewer rows at once, or fewer tokens"
            )

    def _stream(
        self, sampled: list[int], cache: KVCache, draw: "_Draw", limits: list[int], decoder: Decoder
    ) -> Iterator[tuple[list[int | None], list[int]]]:
        """One column per step. `active` names the rows that the cache still holds, in the cache's order."""
        rows = [_Row(ToolUse(self.tokenizer, self._python), limit) for limit in limits]
        active = list(range(len(rows)))
        for step in range(max(limits)):
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
                    row.left -= 1
                    row.done = token in self.ends or row.left == 0
                following.append(max(token, 0))
            yield column, mask
            alive = [i for i, place in enumerate(active) if not rows[place].done]
            if not alive:
                return
            if 2 * len(alive) <= len(active):  # half the rows have ended: stop computing them
                cache = cache.select(alive)
                draw = draw.select(alive)
                active, following = [active[i] for i in alive], [following[i] for i in alive]
            ids = torch.tensor(following, device=cache.lens_after.device)
            with few_threads(decoder.size * len(active)):
                sampled = draw(decoder.step(ids, cache), step + 1)

    @torch.inference_mode()
    def _prefill(self, prompts: list[list[int]], rows: int, kept: "KeptCache | None" = None) -> tuple[Tensor, KVCache]:
        """Run every prompt once; the logits (B, V) behind the last token of each row, and the cache to go on from."""
        config, weight = self.model.config, self.model.lm_head.weight
        logits, caches = [], []
        for prompt in prompts:
            cache = kept.take(self.model, prompt) if kept is not None else None
            if cache is None:
                shape = (config.n_layer, 1, config.n_kv_head, config.head_dim)
                cache = KVCache(*shape, dtype=weight.dtype, device=weight.device)
            hidden = self.model.hidden(torch.tensor([prompt[cache.length :]], device=weight.device), cache)
            logits.append(self.model.logits(hidden[:, -1]))
            caches.append(cache)
        if len(caches) > 1:
            return torch.cat(logits), KVCache.join(caches)
        return (logits[0], caches[0]) if rows == 1 else (logits[0].expand(rows, -1), caches[0].select([0] * rows))


@dataclass(frozen=True)
class _Draw:
    """The sampling settings of the rows in the cache; called with logits (B, V) and a step, it draws a token a row."""

    settings: dict[str, Any]  # temperature, top_k, top_p, min_p: a number, a tensor (B,), or None
    seeds: Tensor  # (B,)

    @staticmethod
    def of(request: Request, device: torch.device) -> "_Draw":
        """Lists become tensors as precise as Python's numbers, so that a row draws the same alone and in a batch."""
        real = torch.float32 if device.type == "mps" else torch.float64
        settings = {
            name: torch.tensor(value, device=device, dtype=torch.int64 if name == "top_k" else real)
            if isinstance(value, list)
            else value
            for name, value in request.settings.items()
        }
        return _Draw(settings, torch.tensor([_signed(seed) for seed in request.seeds], device=device))

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


def _run_aside(
    tool: Callable[[str], str | None], aside: Callable[[], AbstractContextManager[None]], code: str
) -> str | None:
    with aside():
        return tool(code)


def _signed(seed: int) -> int:
    """The seed's low 64 bits as the signed number that a tensor holds."""
    return (seed + 2**63) % 2**64 - 2**63
