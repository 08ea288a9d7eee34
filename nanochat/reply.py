"""One reply of a model: from the turns of a conversation to a prompt, and from its tokens to text and tool calls.

The chat page and the server stand on it. A conversation is kept as turns; an assistant's turn carries its own tokens,
so that the model reads its earlier words, tool calls included, exactly as it wrote them.

    prompt = prompt_ids(tokenizer, [Turn("user", "Hello")])
    reply = Reply()
    for piece in reply.write(engine, prompt, Sampling(), queue):
        print(piece.text, end="")
    reply.parts, reply.reason, reply.tokens_per_second
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from nanochat.conversation import PARTS
from nanochat.model_queue import ModelQueue

if TYPE_CHECKING:
    from nanochat.checkpoint_manager import LoadedModel
    from nanochat.engine import Engine
    from nanochat.kept_cache import KeptCache
    from nanochat.tokenizer import Tokenizer

Part = dict[str, str]  # {"type": "text" | "python" | "python_output", "text": ...}, as conversations write it


@dataclass(frozen=True)
class Turn:
    """What one side said."""

    role: str  # "user" or "assistant"
    text: str
    ids: tuple[int, ...] | None = None  # the assistant's own tokens; None: its text is encoded anew


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults are nanochat's."""

    temperature: float = 0.6
    top_k: int = 50
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int = 256  # of the reply
    seed: int = 42


@dataclass(frozen=True)
class Piece:
    """What one token added. The text may be empty: half a character, or a token that only opens or closes a call."""

    kind: str  # the type of the part it belongs to
    text: str
    token: int


def prompt_ids(
    tokenizer: "Tokenizer", turns: Sequence[Turn], system: str = "", *, continuation: bool = False
) -> list[int]:
    """The turns as tokens that end where the model's own turn begins. Text never becomes a special token.

    continuation: for a model that has seen no conversation; the turns are then one text, and there is no system text.
    """
    ids = [tokenizer.get_bos_token_id()]
    if continuation:
        for turn in turns:
            ids += tokenizer.encode(turn.text) if turn.ids is None else turn.ids
        return ids
    for number, turn in enumerate(turns):
        # nanochat has no token for system text: it stands before the first message, with an empty line between
        text = f"{system}\n\n{turn.text}" if system and number == 0 else turn.text
        said = tokenizer.encode(text) if turn.ids is None else turn.ids
        ids += [
            tokenizer.encode_special(f"<|{turn.role}_start|>"),
            *said,
            tokenizer.encode_special(f"<|{turn.role}_end|>"),
        ]
    return [*ids, tokenizer.encode_special("<|assistant_start|>")]


def shared_engine(loaded: "LoadedModel", queue: ModelQueue, *, python: bool = False, trust: bool = False) -> "Engine":
    """An engine whose Python tool gives its turn at the model away while a program runs.

    Raises EngineError where Python was asked for and cannot be contained.
    """
    from nanochat.engine import Engine

    return Engine(loaded.model, loaded.tokenizer, python=python, trust_model=trust, aside=queue.aside)


@dataclass
class Reply:
    """A reply while it is written and after. Whoever stops reading keeps what was written so far."""

    ids: list[int] = field(default_factory=list)  # its tokens, without the one that ends it
    forced: list[bool] = field(default_factory=list)  # for each: whether a tool put it there
    parts: list[Part] = field(default_factory=list)
    reason: str = "stopped"  # or "end": the model ended it; "limit": max_tokens; "context": the context is full
    begun: float = field(default_factory=time.perf_counter)  # seconds of a clock, when it was asked for
    first: float = 0.0  # when the first token was there
    last: float = 0.0

    def write(
        self,
        engine: "Engine",
        prompt: Sequence[int],
        sampling: Sampling,
        queue: ModelQueue,
        kept: "KeptCache | None" = None,
    ) -> Generator[Piece, None, None]:
        """Write it, a piece a token. kept: what the conversation has been read of before.

        Raises EngineError or KernelInputError, naming the setting, and EngineError where the model gives no numbers;
        what was written by then stays.
        """
        from nanochat.engine import TextStream

        room = max(engine.model.config.sequence_len - len(prompt), 1)
        limit = min(sampling.max_tokens, room)
        names = ("temperature", "top_k", "top_p", "min_p", "seed")
        settings: dict[str, Any] = {name: getattr(sampling, name) for name in names}
        marks = _marks(engine.tokenizer)
        stream, kind = TextStream(engine.tokenizer), "text"
        start = partial(engine.generate, list(prompt), max_tokens=limit, kept=kept, **settings)
        for (token,), (chosen,) in queue.in_turns(start):
            if token is None or token in engine.ends:
                self.reason = "end"
                break
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.ids.append(token)
            self.forced.append(not chosen)
            mark = marks.get(token)
            if mark is None:
                text = stream.push(token)
                self._add(kind, text)
                yield Piece(kind, text, token)
                continue
            rest = stream.finish()  # half a character does not survive the border of a part
            self._add(kind, rest)
            yield Piece(kind, rest, token)
            kind, stream = mark, TextStream(engine.tokenizer)
            if kind != "text":
                self.parts.append({"type": kind, "text": ""})
        else:
            self.reason = "context" if limit == room < sampling.max_tokens else "limit"
        rest = stream.finish()
        if rest:
            self._add(kind, rest)
            yield Piece(kind, rest, self.ids[-1])

    def _add(self, kind: str, text: str) -> None:
        if not text:
            return
        if not self.parts or self.parts[-1]["type"] != kind:
            self.parts.append({"type": kind, "text": ""})
        self.parts[-1]["text"] += text

    @property
    def text(self) -> str:
        """The words alone, without tool calls."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def seconds_to_first(self) -> float | None:
        """From the request to the first token; None before that."""
        return self.first - self.begun if self.first else None

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None where there are fewer than two."""
        return (len(self.ids) - 1) / (self.last - self.first) if len(self.ids) > 1 and self.last > self.first else None


def _marks(tokenizer: "Tokenizer") -> dict[int, str]:
    """Tokens that open or close a part -> the kind of part that follows."""
    found = {}
    for kind, (opens, closes, _) in PARTS.items():
        if opens is not None and closes is not None:
            found[tokenizer.encode_special(opens)] = kind
            found[tokenizer.encode_special(closes)] = "text"
    return found
