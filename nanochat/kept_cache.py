"""What a conversation's next prompt need not read again: the keys and values of all that was said so far.

    kept = KeptCache()
    engine.generate(prompt, kept=kept)           # reads the whole prompt
    engine.generate(longer_prompt, kept=kept)    # reads it from the first token that differs from what is kept

Each conversation has one of its own: what one says reaches no other, and its memory goes when the conversation goes. A
`Shelf` bounds what all of them keep together. The reply is that of a fresh run up to rounding: a token that was written
singly was multiplied in another order than one that is read in a prompt, so at most a tie may fall the other way.
"""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.gpt import GPT
    from nanochat.kv_cache import KVCache

ROOM = 512 * 2**20  # bytes that a shelf holds: one full context of 2,048 tokens of a model 20 layers deep, in float32


@dataclass(frozen=True)
class _Held:
    """One text under one model."""

    model: "weakref.ref[GPT]"  # weak: what was said to a model does not keep the model open
    ids: list[int]  # the tokens that the cache holds
    read: int  # of these, the tokens of the last prompt; the rest was written behind it
    cache: "KVCache"


class KeptCache:
    """One conversation's keys and values between its replies. Safe to share among threads."""

    def __init__(self, shelf: "Shelf | None" = None) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def take(self, model: "GPT", prompt: Sequence[int]) -> "KVCache | None":
        """The cache, rewound to the beginning that it shares with the prompt, whose last token is always left to read.

        None where nothing of it can be used, and until `give` for everybody else: it belongs to one text at a time.
        """
        import torch

        from nanochat.gpt import norm

        with self._lock:
            held, self._held = self._held, None
        if held is None or held.model() is not model:
            return None
        shared = min(common(held.ids, prompt), len(prompt) - 1)
        if shared < 1:
            return None
        last = torch.tensor([[prompt[shared - 1]]], device=model.wte.weight.device)
        held.cache.rewind(shared, last, norm(model.wte(last)) if model.config.smear else None)
        return held.cache

    def give(self, model: "GPT", ids: list[int], read: int, cache: "KVCache") -> None:
        """Keep a cache of one row that holds the tokens `ids`, the first `read` of them its prompt."""
        with self._lock:
            self._held = _Held(weakref.ref(model), ids, read, cache)
        if self._shelf is not None:
            self._shelf.put(self)

    def forget(self) -> None:
        """Give its memory back."""
        with self._lock:
            self._held = None

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        held = self._held
        return 0 if held is None else held.cache.memory.nbytes

    def precedes(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt is the conversation's next: it begins with the whole of the last one and goes on."""
        held = self._held
        return held is not None and held.read < len(prompt) and common(held.ids, prompt) >= held.read


class Shelf:
    """What conversations keep together, at most `room` bytes; those that were quiet longest forget first."""

    def __init__(self, room: int = ROOM, *, owns: bool = False) -> None:
        """owns: conversations live here, for a server that has no other place for them; else they go when others do."""
        self.room = room
        self._lock = threading.Lock()
        self._quiet: list[weakref.ref[KeptCache]] = []  # the longest quiet first
        self._owned: list[KeptCache] | None = [] if owns else None

    def put(self, kept: KeptCache) -> None:
        """`kept` has just become quiet; make room for it."""
        with self._lock:
            room = self.room
            staying: list[KeptCache] = []
            for one in (kept, *reversed([one for one in self._known() if one is not kept])):
                size = one.size
                if size > room:
                    one.forget()
                elif size:  # nothing: its conversation goes on, and it comes back here
                    room -= size
                    staying.insert(0, one)
            self._quiet = [weakref.ref(one) for one in staying]
            if self._owned is not None:
                self._owned = staying

    def continued_by(self, prompt: Sequence[int]) -> KeptCache:
        """The conversation that this prompt goes on with, or a new one. The same prompt again is a new one."""
        with self._lock:
            known = self._known()
        return next((one for one in reversed(known) if one.precedes(prompt)), None) or KeptCache(self)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        with self._lock:
            return sum(one.size for one in self._known())

    def _known(self) -> list[KeptCache]:
        return [one for reference in self._quiet if (one := reference()) is not None]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts share from their beginning.

    >>> common((5, 6, 7), (5, 6, 8, 9))
    2
    """
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
