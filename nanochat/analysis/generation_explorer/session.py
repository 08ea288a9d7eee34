"""One prompt under one model, with a memory: what was computed once is never computed again.

A text is a path of tokens behind the prompt. The logits behind every path that was walked are kept, and one cache of
keys and values follows the path that was walked last. So another temperature draws again from kept logits up to the
first token that differs, and the model goes on from the kept keys and values; a branch that was seen before costs
nothing. Draws and numbers are the engine's own: the same prefill, the same single steps, kernels.sample with the same
seed and step, so a text is the engine's text, token for token.

Legend: V vocabulary.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.analysis.generation_explorer.settings import ExplorerError, Settings
from nanochat.generation import SETTINGS, check_request
from nanochat.kept_cache import common
from nanochat.tool_use import ToolUse

if TYPE_CHECKING:
    from torch import Tensor

    from nanochat.engine import Engine
    from nanochat.kv_cache import KVCache

MEMORY = 192 * 2**20  # bytes of kept logits; the oldest paths go first
FEWEST, MOST = 640, 4096  # kept paths; the texts themselves take room too
Path = tuple[int, ...]
ORIGINS = {"model": "drawn by the model", "tool": "written by a tool", "you": "forced by you"}


@dataclass(frozen=True)
class Token:
    """One token of a text and who chose it."""

    id: int
    origin: str = "model"  # a key of ORIGINS


class Session:
    """Not for several threads at once: one person's exploration. The model itself is only read."""

    def __init__(self, engine: "Engine", prompt: Sequence[int]) -> None:
        """Raises EngineError: the prompt is longer than the context, or not this model's."""
        check_request(engine.model.config, list(prompt), 1, 0, 0, dict.fromkeys(SETTINGS))
        self.engine, self.prompt = engine, list(prompt)
        self.passes = 0  # forward passes so far, the prompt's included
        self._kept: OrderedDict[Path, Tensor] = OrderedDict()  # path -> logits (V,) behind it
        # Paths whose logits are kept; the longest text of the page fits always.
        self.capacity = min(max(MEMORY // (4 * engine.model.config.vocab_size), FEWEST), MOST)
        self._first: Tensor | None = None  # the logits behind the prompt
        self._walked: list[int] = []  # the tokens behind the prompt that the cache holds
        self._vectors: list[Tensor | None] = []  # the cache's last_vector behind the prompt and behind each of them

    def limit(self, max_tokens: int | None, settings: Settings) -> int:
        """The most tokens that a text takes. Raises EngineError, naming what does not fit."""
        config, sampling = self.engine.model.config, settings.sampling()
        return check_request(config, self.prompt, 1, max_tokens, settings.seed, sampling).limits[0]

    def write(
        self, settings: Settings, max_tokens: int | None = None, fixed: Sequence[Token] = (), *, known: bool = False
    ) -> Iterator[Token]:
        """The text token by token: first what is fixed, then what the settings draw. It ends as the engine's does.

        known: only as far as it goes without a forward pass.
        Raises EngineError or KernelInputError for settings that cannot be, ExplorerError for a model without numbers.
        """
        tools, due = ToolUse(self.engine.tokenizer), deque[int]()
        path: Path = ()
        for step in range(self.limit(max_tokens, settings)):
            if step < len(fixed):
                token = fixed[step]
                if due and due.popleft() != token.id:
                    due.clear()  # a person took the word out of the tool's mouth
            elif due:
                token = Token(due.popleft(), "tool")
            elif known and not self.known(path):
                return
            else:
                token = Token(self.draw(path, settings))
            yield token
            path += (token.id,)
            due.extend(tools.push(token.id))
            if token.id in self.engine.ends:
                return

    def draw(self, path: Path, settings: Settings) -> int:
        """The token that these settings choose behind a path."""
        import kernels

        seed = settings.seed % 2**64
        token = int(kernels.sample(self.logits(path)[None], **settings.sampling(), seed=seed, step=len(path)).token)
        if token < 0:
            raise ExplorerError(
                f"the model's logits at step {len(path) + 1} are not numbers (NaN); its weights are damaged: verify "
                "the checkpoint"
            )
        return token

    def known(self, path: Path) -> bool:
        """Whether the logits behind a path are there without a forward pass."""
        return path in self._kept or (not path and self._first is not None)

    def logits(self, path: Path) -> "Tensor":
        """The logits (V,) behind prompt and path, float32, on the model's device."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        if self._first is None:
            self._prefill()
        return self._walk(path) if path else self._first  # type: ignore[return-value]

    def _prefill(self) -> None:
        """Read the prompt, as the engine does."""
        import torch

        from nanochat.decode import Decoder

        model = self.engine.model
        self._cache, self._decoder = self.new_cache(), Decoder(model)
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor([self.prompt], device=model.lm_head.weight.device), self._cache)
            self._first = model.logits(hidden[:, -1])[0]
        self._vectors = [self._cache.last_vector]
        self.passes += 1

    def _walk(self, path: Path) -> "Tensor":
        """Go back to where this path left the last one, and from there on token by token."""
        import torch

        shared = common(self._walked, path)
        if shared == len(path):  # its keys are there, its logits have been forgotten
            shared -= 1
        self._rewind(shared)
        logits = None
        for place in range(shared, len(path)):
            logits = self._decoder.step(torch.tensor([path[place]], device=self._cache.lens_after.device), self._cache)
            self._walked.append(path[place])
            self._vectors.append(self._cache.last_vector)
            self._keep(path[: place + 1], logits[0])
            self.passes += 1
        return logits[0]  # type: ignore[index]

    def _rewind(self, count: int) -> None:
        """Let the cache hold the prompt and the first `count` tokens behind it; what lies beyond is written over."""
        import torch

        last = self._walked[count - 1] if count else self.prompt[-1]
        ids = torch.tensor([[last]], device=self._cache.lens_after.device)
        self._cache.rewind(len(self.prompt) + count, ids, self._vectors[count])
        del self._walked[count:], self._vectors[count + 1 :]

    def _keep(self, path: Path, logits: "Tensor") -> None:
        self._kept[path] = logits
        if len(self._kept) > self.capacity:
            self._kept.popitem(last=False)

    def new_cache(self) -> "KVCache":
        from nanochat.kv_cache import KVCache

        config, weight = self.engine.model.config, self.engine.model.lm_head.weight
        return KVCache(config.n_layer, 1, config.n_kv_head, config.head_dim, dtype=weight.dtype, device=weight.device)


def divergence(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The step, from 0, at which two texts first differ; None where they are the same.

    >>> divergence((5, 6), (5, 6)), divergence((5, 6), (5, 6, 7))
    (None, 2)
    """
    shared = common(one, other)
    return None if shared == len(one) == len(other) else shared
