"""How well a tokenizer compresses: bytes of text for each token, on several kinds of text, beside known tokenizers.

More bytes a token mean more text in the same context and fewer steps for the same text. A tokenizer compresses what it
was trained on; the samples below are of other kinds, so that one sees what it costs where it knows nothing. GPT-2's and
GPT-4's tokenizers are compared with where tiktoken has them in its cache. Nothing is ever downloaded here.

    python -m nanochat.scripts.tok_eval
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

    from nanochat.tokenizer import Tokenizer

# tiktoken's name -> (what people call it, the files it is made of with their SHA-256). tiktoken keeps each in its cache
# under the SHA-1 of its address, and fetches what is missing or damaged: so all of them are checked before it is asked.
_BLOBS = "https://openaipublic.blob.core.windows.net/"
REFERENCES: dict[str, tuple[str, dict[str, str]]] = {
    "gpt2": (
        "GPT-2",
        {
            _BLOBS + "gpt-2/encodings/main/vocab.bpe": (
                "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
            ),
            _BLOBS + "gpt-2/encodings/main/encoder.json": (
                "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
            ),
        },
    ),
    "cl100k_base": (
        "GPT-4",
        {
            _BLOBS + "encodings/cl100k_base.tiktoken": (
                "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
            )
        },
    ),
}
MAX_CACHED_BYTES = 64 * 2**20  # the largest of these files has under 2 MB

SAMPLES: dict[str, str] = {
    "news": """\
HARBOUR TOWN (Tuesday) - The old ferry will sail again from the first of May, the council decided last night by eleven
votes to four. Repairs took three winters and cost 2.4 million, almost twice what was planned. "We were told it could
not be done," said Ruth Adeyemi, who led the petition with 6,300 signatures. Critics point out that a bridge would have
served 18,000 commuters a day; the ferry carries at most 900. A decision on night services was put off until autumn.
Tickets go on sale on Monday, and children under twelve travel free, the council's spokesman added.""",
    "code": """\
def longest_run(values: list[int]) -> tuple[int, int]:
    \"\"\"Start and length of the longest run of equal neighbours.\"\"\"
    best_start = best_length = 0
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            if i - start > best_length:
                best_start, best_length = start, i - start
            start = i
    return best_start, best_length


if __name__ == "__main__":
    assert longest_run([1, 1, 2, 2, 2, 3]) == (2, 3)
    print(f"{longest_run([]) = }")""",
    "maths": r"""\begin{theorem}
There are infinitely many primes.
\end{theorem}
\begin{proof}
Let $p_1, p_2, \dots, p_n$ be primes and put $N = \prod_{i=1}^{n} p_i + 1 \ge 3$. If some $p_i$ divided $N$, it would
divide $N - \prod_i p_i = 1$, which is impossible. So every prime factor $q \mid N$ satisfies $q \notin \{p_1, \dots,
p_n\}$. Hence no finite list is complete, and $\pi(x) \to \infty$ as $x \to \infty$; in fact
\[ \pi(x) = \int_2^x \frac{dt}{\ln t} + O\!\left(x\, e^{-c\sqrt{\ln x}}\right). \]
\end{proof}""",
    "science": """\
A tide is the difference of two pulls. The Moon attracts the near side of the Earth by about 1.1 x 10^-6 m/s^2 more than
its centre, and the far side by as much less, so the oceans rise on both. Because the Earth turns under these two bulges
in 24 h 50 min, most coasts see two high waters a day, of 0.5 m in mid-ocean and up to 16 m where a funnel-shaped bay
resonates. Friction on the shelves slows the rotation by 2.3 ms a century, and the Moon recedes by 38 mm a year.""",
    "many scripts": """\
Die Fähre fährt wieder, sagte die Kapitänin. Le café est fermé à midi, où va-t-on ? El niño soñó con un pingüino.
Старая лодка снова плывёт по реке. Η παλιά βάρκα ταξιδεύει ξανά. القارب القديم يبحر من جديد.
पुरानी नाव फिर से चल रही है। 旧渡船明天又要开航了,大家都很高兴。 古い船がまた海へ出ます。 오래된 배가 다시 바다로 나갑니다.
Emoji: 🚢 🌊 🧑‍🚀 👩🏽‍🔬 5 × 4 ≠ 21 … ½ € “quoted”""",
}


@dataclass(frozen=True)
class Reference:
    """A known tokenizer, or why it is not at hand."""

    name: str  # tiktoken's: "gpt2"
    label: str  # what people call it: "GPT-2"
    encoding: "tiktoken.Encoding | None"  # None: see `reason`
    reason: str  # one sentence for the screen, without its full stop
    command: str = ""  # its end, where it ends with a command that gets the tokenizer


@dataclass(frozen=True)
class Compression:
    """One text under one tokenizer."""

    text: str  # which text
    tokenizer: str  # "ours", or the label of a reference
    bytes: int  # of the text, in UTF-8
    tokens: int

    @property
    def ratio(self) -> float:
        """Bytes a token; larger is better. Of an empty text 0."""
        return self.bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class TokenStatistics:
    """The lengths of a vocabulary's tokens in bytes, special tokens left out."""

    count: int
    least: int
    most: int
    mean: float
    deviation: float  # the sample's, with n - 1, as nanochat prints it


def compare(
    tokenizer: "Tokenizer", texts: Mapping[str, str], references: tuple[Reference, ...] = ()
) -> list[Compression]:
    """Every text under the tokenizer ("ours") and under each reference that is at hand, text by text."""
    rows = []
    for name, text in texts.items():
        size = len(text.encode("utf-8", "surrogatepass"))
        rows.append(Compression(name, "ours", size, len(tokenizer.encode(text))))
        for reference in references:
            if reference.encoding is not None:
                count = len(reference.encoding.encode_ordinary(text))
                rows.append(Compression(name, reference.label, size, count))
    return rows


def reference(name: str) -> Reference:
    """A known tokenizer from tiktoken's cache; without `encoding` where it is not whole there. Never the network."""
    label, files = REFERENCES[name]
    folder = cache_folder()
    for address, digest in files.items():
        path = folder / hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
        if (problem := _problem(path, digest)) is not None:
            how = f'python -c "import tiktoken; tiktoken.get_encoding({name!r})"'
            why = f"{label}'s tokenizer is not compared: {problem}. With a network, get it by {how}"
            return Reference(name, label, None, why, how)
    import tiktoken

    return Reference(name, label, tiktoken.get_encoding(name), f"{label}'s tokenizer is in tiktoken's cache")


def cache_folder() -> Path:
    """Where tiktoken keeps what it has fetched: its own rule."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable] or os.devnull)  # empty means: no cache
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def _problem(path: Path, digest: str) -> str | None:
    """Why a cached file cannot be used, as half a sentence; None if it is whole."""
    try:
        if path.stat().st_size > MAX_CACHED_BYTES:
            return "the file in tiktoken's cache is not the one that was published"
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return "the file in tiktoken's cache is damaged"
    except OSError:
        return "it is not in tiktoken's cache"
    return None


def token_statistics(tokenizer: "Tokenizer") -> TokenStatistics:
    """Least, most, mean and deviation of the bytes of a token."""
    import statistics

    sizes = [size for size in tokenizer.token_bytes() if size > 0]
    return TokenStatistics(len(sizes), min(sizes), max(sizes), statistics.fmean(sizes), statistics.stdev(sizes))


def show_token(token: bytes) -> str:
    """A token as text between marks: a blank is visible, and bytes that are no character by themselves are named.

    >>> show_token(b" the"), show_token(bytes([0xe4, 0xbd]))
    ('[ the]', '<e4 bd>')
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return f"<{token.hex(' ')}>"
    return f"[{text if text.isprintable() else ascii(text)[1:-1]}]"
