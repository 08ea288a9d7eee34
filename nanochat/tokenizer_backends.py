"""The two Rust libraries under the tokenizer, and what has to be kept from them.

rustbpe learns a vocabulary (`bpe.py` does where there is no wheel), tiktoken applies it. Both share a regex engine that
gives up on a run of a million blanks, and both panic where Python would raise: a panic is no `Exception` and would end
a server. So long runs are taken out before the engine sees them, and a panic that comes all the same is translated.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat import bpe
from nanochat.tokenizer_files import BOS, TokenizerError, Vocabulary

if TYPE_CHECKING:
    import tiktoken

LONG_BLANK = 100_000  # the engine holds out to a million
# What the pattern's \s means (Unicode's White_Space), but for the line breaks \r and \n.
BLANKS = "\t\x0b\x0c \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_BLANK_RUN = re.compile(f"[{BLANKS}]*")
WHOLE_TEXT = r"[\s\S]+"  # a split pattern that does not split

Result = TypeVar("Result")


@dataclass(frozen=True)
class Training:
    """How a tokenizer came about."""

    trainer: str  # "rustbpe" or "python"
    reason: str  # why that one
    requested_vocab_size: int  # what was asked for; a short text gives fewer tokens


def make_encoding(vocabulary: Vocabulary, pattern: str) -> "tiktoken.Encoding":
    """tiktoken's object for a vocabulary. Raises TokenizerError where the pattern is no regular expression."""
    import tiktoken

    try:
        return tiktoken.Encoding(
            name="rustbpe",  # the name that nanochat's files carry
            pat_str=pattern,
            mergeable_ranks=vocabulary.ranks,
            special_tokens=dict(vocabulary.special_tokens),
        )
    except ValueError:
        raise TokenizerError("the split pattern is not a regular expression that tiktoken can run") from None


def cut_long_blanks(text: str) -> Iterator[tuple[str, bool]]:
    """The text in stretches that nanochat's pattern would never match across; True marks a long run of blanks.

    Such a run is one piece to the pattern, but for its last blank, which goes with the word behind it. Runs that end in
    a line break stay where they are: the engine has another way for them.
    """
    position = 0
    for start, end in _long_blanks(text):
        if end < len(text):
            if text[end] in "\r\n":
                continue
            end -= 1
        yield text[position:start], False
        yield text[start:end], True
        position = end
    yield text[position:] if position else text, False


def _long_blanks(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every run of more than LONG_BLANK blanks: each covers a multiple of it, so look only there."""
    end = 0
    for position in range(LONG_BLANK, len(text), LONG_BLANK):
        if position < end or text[position] not in BLANKS:
            continue
        before = text[position - LONG_BLANK : position]
        start = position - (len(before) - len(before.rstrip(BLANKS)))
        run = _BLANK_RUN.match(text, position)
        end = run.end() if run else position
        if end - start > LONG_BLANK:
            yield start, end


def without_panic(call: Callable[..., Result], *arguments: Any) -> Result:
    """Call into Rust; a panic becomes a TokenizerError."""
    try:
        return call(*arguments)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError("the split pattern can't cope with this text; cut the text into shorter ones") from None


def learn(texts: Iterable[str], size: int, pattern: str, trainer: str | None) -> tuple[list[bytes], str, str]:
    """Up to `size` tokens from texts, the trainer that learnt them and why it was that one. None: the best there is."""
    chosen, reason = _choose_trainer(trainer)
    # The cheapest vocabulary there is tells before the first text is read whether tiktoken can run the pattern at all.
    single_bytes = tuple(bytes([byte]) for byte in range(256))
    make_encoding(Vocabulary(pattern, single_bytes, {BOS: 256}, trust_pattern=True), pattern)
    learner = _learn_with_rustbpe if chosen == "rustbpe" else bpe.train
    return learner(_trainable(texts), size, pattern), chosen, reason


def _choose_trainer(wanted: str | None) -> tuple[str, str]:
    if wanted not in (None, "rustbpe", "python"):
        raise TokenizerError(f"trainer {wanted!r} is not known; use rustbpe or python")
    if wanted == "python":
        return "python", "it was asked for"
    try:
        import rustbpe  # noqa: F401
    except ImportError:
        if wanted:
            raise TokenizerError(
                "rustbpe is not installed; run pip install rustbpe, or take the python trainer"
            ) from None
        return "python", "rustbpe is not installed here; the result is the same, in six times the time"
    return "rustbpe", "it was asked for" if wanted else "it is installed, and the faster one"


def _learn_with_rustbpe(texts: Iterable[str], size: int, pattern: str) -> list[bytes]:
    import rustbpe

    learner = rustbpe.Tokenizer()
    without_panic(lambda: learner.train_from_iterator(iter(texts), size, pattern=pattern))
    return [bytes(token) for token, _ in sorted(learner.get_mergeable_ranks(), key=lambda item: item[1])]


def _trainable(texts: Iterable[str]) -> Iterator[str]:
    """Texts as both trainers can take them: whole characters, and no endless runs of blanks."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError(f"text {number} is {type(text).__name__}, not a string; decode it or leave it out")
        if not text.isascii():  # half characters become U+FFFD, as tiktoken does it when encoding
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for stretch, is_blank in cut_long_blanks(text):
            yield stretch[:LONG_BLANK] if is_blank else stretch  # more of the same would teach nothing
