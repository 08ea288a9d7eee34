"""What a generation is asked with: the sampling settings, the prompt as a model reads it, the model itself."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.generation import ROW_STRIDE

if TYPE_CHECKING:
    from nanochat.checkpoint_manager import LoadedModel
    from nanochat.engine import Engine
    from nanochat.tokenizer import Tokenizer

TEMPERATURES = (0.1, 0.5, 0.9, 1.2, 1.5)  # compared unless others are named
TOP_KS = (1, 5, 20, 50, 200)
TOP_PS = (0.5, 0.8, 0.9, 0.95, 1.0)
MIN_PS = (0.0, 0.02, 0.05, 0.1, 0.3)
COMPARED = {"temperature": TEMPERATURES, "top_k": TOP_KS, "top_p": TOP_PS, "min_p": MIN_PS}
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # the value that says what None says
LABELS = {"temperature": "Temperature", "top_k": "Top-k", "top_p": "Top-p", "min_p": "Min-p", "seed": "Seed"}
LONGEST_PROMPT = 1_000_000  # characters: more fits into no context, and encoding it would take seconds


class ExplorerError(ValueError):
    """Something that cannot be explored: one sentence."""


@dataclass(frozen=True)
class Settings:
    """How a token is chosen; what each does exactly is defined in kernels/sample/__init__.py."""

    temperature: float = 0.9  # 0 always takes the likeliest token
    top_k: int | None = None  # choose among the k likeliest; None or 0 for all
    top_p: float | None = None  # ... among the likeliest that together hold this share; None or 1 for all
    min_p: float | None = None  # ... among those with at least this fraction of the likeliest one's share
    seed: int = 42  # the same seed and settings give the same text

    def sampling(self) -> dict[str, Any]:
        """The four settings by the names that the engine and kernels.sample give them."""
        return {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p")}

    def varied(self, name: str, value: float) -> "Settings":
        """These settings with one of them changed; a top-k becomes a whole number.

        >>> Settings().varied("top_k", 5.0).top_k
        5
        """
        changed: dict[str, Any] = {name: int(value) if name in ("top_k", "seed") else value}
        return replace(self, **changed)

    def __str__(self) -> str:
        """In the words of the terminal: temperature and top-k always, the rest where it says something.

        >>> str(Settings(top_p=0.9))
        'Temperature: 0.9, Top-k: None, Top-p: 0.9, Seed: 42'
        """
        said = [f"Temperature: {self.temperature:g}", f"Top-k: {self.top_k or None}"]
        said += [f"{LABELS[name]}: {value:g}" for name in ("top_p", "min_p") if (value := getattr(self, name))]
        return ", ".join([*said, f"Seed: {self.seed}"])


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it."""

    text: str
    ids: tuple[int, ...]
    chat: bool  # in the roles of a conversation, or as plain text that the model continues
    note: str  # how it was put together, in words


def encode_prompt(tokenizer: "Tokenizer", text: str, *, chat: bool) -> Prompt:
    """Put a prompt together: <|bos|> and the text, or the user's turn of a conversation. Text never becomes a marker.

    Raises ExplorerError where it is too long to be any model's prompt, TokenizerError where a marker is missing.
    """
    if len(text) > LONGEST_PROMPT:
        raise ExplorerError(
            f"the prompt has {len(text):,} characters, and {LONGEST_PROMPT:,} are the most that is read; shorten it"
        )
    bos = tokenizer.get_bos_token_id()
    if not chat:
        note = "continued as plain text" if text else "the prompt is empty, so the model begins a text of its own"
        return Prompt(text, (bos, *tokenizer.encode(text)), False, note)
    said = tokenizer.encode(text, prepend="<|user_start|>", append="<|user_end|>")
    ids = (bos, *said, tokenizer.encode_special("<|assistant_start|>"))
    return Prompt(text, ids, True, "asked as the user's turn of a conversation")


def open_engine(folder: str | Path, step: int | None, device: str = "cpu") -> tuple["Engine", "LoadedModel"]:
    """A run's model, ready to write, and what was decided while opening it. Raises CheckpointError, DeviceError."""
    from nanochat.checkpoint_manager import load_model
    from nanochat.engine import Engine

    loaded = load_model(folder, step, device)
    return Engine(loaded.model, loaded.tokenizer), loaded


def knows_stories(meta: dict[str, Any]) -> bool:
    """Whether this run was trained on the built-in stories, whose grammar can judge what it writes."""
    lab = meta.get("lab")
    data = lab.get("data") if isinstance(lab, dict) else None
    identity = data.get("identity") if isinstance(data, dict) else None
    return isinstance(identity, str) and identity.split(" ", 1)[0] == "stories"


def another_seed(seed: int, times: int) -> int:
    """The seed of the text's next draw: the engine's own distance between the rows of a batch."""
    return (seed + times * ROW_STRIDE) % 2**64
