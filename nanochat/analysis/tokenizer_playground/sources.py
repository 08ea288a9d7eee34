"""Which tokenizers there are to play with: those on this machine, tiktoken's where cached, and one made on the spot.

A place has a short id that a flag and a web address can carry: `workspace`, `nanochat`, `sft/demo` (the tokenizer that
a run brought along), `gpt2`, `cl100k_base`, `stories`. Nothing is ever downloaded.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat import paths
from nanochat.analysis.tokenizer_playground.text import PlaygroundError
from nanochat.checkpoint_files import location, shown
from nanochat.tokenizer_eval import REFERENCES, reference
from nanochat.tokenizer_files import JSON_NAME, PICKLE_NAME

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

# The tokenizer for a machine that has none: learnt from the built-in stories when it is asked for.
EXAMPLE = "stories"
EXAMPLE_VOCABULARY, EXAMPLE_STORIES = 1024, 2000  # some 430 kB of text: a second of work, and most words are one token


@dataclass(frozen=True)
class Place:
    """A tokenizer that can be opened, or the reason why not."""

    id: str
    label: str  # what a person calls it
    path: Path | None  # its folder; None for tiktoken's and the example
    missing: str | None = None  # one sentence: why it cannot be opened and what to do


@dataclass(frozen=True)
class Known:
    """A tokenizer that is open, of whatever origin."""

    label: str
    encode: Callable[[str], list[int]] = field(repr=False)  # ordinary text only
    tokens: Sequence[bytes] = field(repr=False)  # by id and rank
    special_tokens: dict[str, int] = field(repr=False)
    pattern: str = field(repr=False)  # the regular expression that splits text before merging
    tokenizer: "Tokenizer | None" = field(default=None, repr=False)  # ours or nanochat's; None for tiktoken's
    notes: tuple[str, ...] = ()  # what a user should know about where it came from

    def __hash__(self) -> int:
        return id(self)

    @functools.cached_property
    def special_names(self) -> dict[int, str]:
        """id -> name of the special tokens."""
        return {number: name for name, number in self.special_tokens.items()}

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token; of a special token its name. Raises PlaygroundError for an id that is none."""
        if 0 <= token_id < len(self.tokens):
            return self.tokens[token_id]
        if token_id in self.special_names:
            return self.special_names[token_id].encode()
        raise PlaygroundError(f"token {token_id} is not in {self.label}, which has {self.size:,}; check the number")

    @property
    def size(self) -> int:
        """Number of tokens, specials included."""
        return len(self.tokens) + len(self.special_tokens)


def places(base_dir: str | Path | None = None) -> list[Place]:
    """Every tokenizer on disk, as `local_places` has them, then tiktoken's and the example. Raises PlaygroundError."""
    found = local_places(base_dir)
    for name in REFERENCES:
        known = reference(name)  # reads tiktoken's cache and nothing else
        missing = None if known.encoding is not None else known.reason.replace("is not compared", "cannot be used")
        found.append(Place(name, f"{known.label}'s tokenizer, from tiktoken", None, missing))
    return [*found, Place(EXAMPLE, f"example: {EXAMPLE_VOCABULARY:,} tokens learnt from built-in stories", None)]


def local_places(base_dir: str | Path | None = None) -> list[Place]:
    """Every tokenizer of both roots, or of one folder in their layout. Raises PlaygroundError where that is none."""
    if base_dir is not None and not paths.expand(base_dir).is_dir():
        raise PlaygroundError(f"{location(base_dir)} is no folder; name one in nanochat's layout")
    found: list[Place] = []
    roots = paths.roots() if base_dir is None else [paths.Root("nanochat", paths.expand(base_dir), True, "")]
    for root in roots:
        prefix = "" if root.ours else f"{root.name}:"
        if _holds_tokenizer(root.path / "tokenizer"):
            article = "the " if root.ours else ""
            found.append(Place(root.name, f"{article}{root.name}'s tokenizer", root.path / "tokenizer"))
        found += [
            Place(f"{prefix}{stage}/{run.name}", f"of the {stage} run {shown(run.name)}", run)
            for stage, run in runs_with_tokenizer(root.path)
        ]
    return found


def runs_with_tokenizer(base_dir: Path) -> list[tuple[str, Path]]:
    """(stage, folder) of every run of a base dir that keeps its own tokenizer, as ours do; pretrained ones first."""
    stages = [(stage, base_dir / name) for stage, names in paths.STAGE_FOLDERS.items() for name in names]
    return [(stage, run) for stage, folder in stages for run in _folders_in(folder) if _holds_tokenizer(run)]


def find_place(name: str | None, base_dir: str | Path | None = None, folder: str | Path | None = None) -> Place:
    """The place of this id, else the best there is (`name` None). A folder named by hand goes before all.

    Raises PlaygroundError for an id that is none of them.
    """
    if folder is not None:
        return Place("folder", location(folder), paths.expand(folder))
    known = places(base_dir)
    if name is None:
        return next(place for place in known if place.missing is None)
    for place in known:
        if place.id == name:
            return place
    there = ", ".join(shown(place.id) for place in known)
    raise PlaygroundError(f"there is no tokenizer '{shown(name)}'; those here are {there}")


def open_place(place: Place) -> Known:
    """Open a tokenizer. Raises PlaygroundError where it is missing, TokenizerError where its files are at fault."""
    if place.missing is not None:
        raise PlaygroundError(place.missing)
    if place.path is not None:
        from nanochat.tokenizer import load_tokenizer

        return known_from(load_tokenizer(place.path), place.label)
    return example() if place.id == EXAMPLE else _reference(place.id)


def known_from(tokenizer: "Tokenizer", label: str) -> Known:
    """One of our Tokenizer objects as a Known."""
    vocabulary = tokenizer.vocabulary
    return Known(
        label,
        tokenizer.encode,
        vocabulary.tokens,
        tokenizer.special_tokens,
        vocabulary.pattern,
        tokenizer,
        tokenizer.notes,
    )


@functools.lru_cache(maxsize=1)
def example() -> Known:
    """A small tokenizer learnt from the built-in stories, always the same one."""
    from nanochat.stories import story
    from nanochat.tokenizer import train_tokenizer

    texts = (story(0, "train", number) for number in range(EXAMPLE_STORIES))
    tokenizer = train_tokenizer(texts, EXAMPLE_VOCABULARY)
    return known_from(tokenizer, f"example ({EXAMPLE_VOCABULARY:,} tokens from stories)")


def _reference(name: str) -> Known:
    from nanochat.tokenizer_backends import without_panic

    found = reference(name)
    encoding = found.encoding
    if encoding is None:
        raise PlaygroundError(found.reason)
    by_rank = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
    return Known(
        found.label,
        lambda text: without_panic(encoding.encode_ordinary, text),
        tuple(token for token, _ in by_rank),
        dict(encoding._special_tokens),
        encoding._pat_str,
    )


def _holds_tokenizer(folder: Path) -> bool:
    return (folder / JSON_NAME).is_file() or (folder / PICKLE_NAME).is_file()


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # not there, or not readable: Home says so, and the other tokenizers can still be used
        return []
