"""What a run looks at between two updates: bits per byte on text it does not train on, and a sample of its writing.

All ranks share an evaluation: each takes its part of the same rows, and the sums are added up, so the figure does not
depend on how many there are. The rows are the same every time, so they are read once and kept while that is cheap.

    Look("evaluation", Evaluation(model, batches, token_bytes), every=250, at_start=True)
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat.dataloader import Batch
from nanochat.distributed import World
from nanochat.loss_eval import LossEvalError, evaluate_bpb

if TYPE_CHECKING:
    from nanochat.gpt import GPT
    from nanochat.tokenizer import Tokenizer

AGREE_SECONDS = 2.0  # between two times that ranks ask each other whether one was told to stop
KEEP_TOKENS = 2**21  # validation tokens that are kept in memory: 32 MB
PROMPTS = (  # nanochat's own seven questions to a base model
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
)


class _Stopped(Exception):
    """A stop request came during an evaluation."""


class Evaluation:
    """Bits per byte of a model on the same batches each time; call it with the step.

    Several ranks have different batches, and one that stops alone would leave the others waiting for ever. So every
    AGREE_SECONDS each of them says whether it was told to stop and whether it is done; whoever is done goes on saying
    so. A stop takes these seconds and one batch.
    """

    def __init__(
        self,
        model: "GPT",
        batches: Callable[[], Iterable[Any]],
        token_bytes: Tensor | Sequence[int],
        *,
        world: World | None = None,
        device: Any = "cpu",
        stop: Callable[[], str | None] = lambda: None,
        dtype: torch.dtype | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """batches: gives this rank's part, objects with `inputs` and `targets` (B, T), anew at every call.
        token_bytes: (V,) as evaluate_bpb takes them. stop: asked between batches, on every rank. dtype: the format that
        the run computes in; None: that of the weights.
        """
        self.model, self.batches, self.world, self.device = model, batches, world or World(), device
        self.dtype = dtype
        self.token_bytes = torch.as_tensor(token_bytes, device=device)
        self.stop, self.clock = stop, clock
        self._agreed = 0.0  # when the ranks last asked each other
        self._kept: list[Any] | None = []

    def __call__(self, step: int) -> float | None:
        """Bits per byte, the same number on every rank; None where a stop request cut it short.

        Raises:
            LossEvalError: no target stands for any byte.
        """
        counted, nothing = 0, None
        self._agreed = self.clock()

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal counted
            for batch in self._batches():
                self._ask()
                targets = batch.targets
                counted += int(torch.where(targets < 0, 0, self.token_bytes[targets.clamp(min=0)]).sum())
                yield batch.inputs, targets

        training = self.model.training
        self.model.eval()
        try:
            try:
                mine = evaluate_bpb(self.model, pairs(), self.token_bytes, self.dtype)
            except LossEvalError as error:
                if self.world.size == 1:
                    raise
                mine, nothing = 0.0, error  # a short text may have no row for this rank; the others wait for its sums
            while self.world.size > 1 and not self._agree(done=True):
                pass
        except _Stopped:
            return None
        finally:
            self.model.train(training)
        if self.world.size == 1:
            return mine
        bits, total = self.world.add([mine * counted, float(counted)], self.device)
        if not total:
            raise nothing or LossEvalError("no rank has text to evaluate; name longer text, or use fewer ranks")
        return bits / total

    def _ask(self) -> None:
        """Between two batches: whether to stop. Raises _Stopped."""
        if self.world.size == 1:
            if self.stop():
                raise _Stopped
        elif self.clock() - self._agreed >= AGREE_SECONDS:
            self._agree(done=False)

    def _agree(self, done: bool) -> bool:
        """Ask all ranks; whether all are done. Raises _Stopped on each of them where one was told to stop."""
        stops, ready = self.world.add([float(self.stop() is not None), float(done)], self.device)
        self._agreed = self.clock()
        if stops:
            raise _Stopped
        return ready == self.world.size

    def _batches(self) -> Iterator[Any]:
        """The batches, from memory where they have been kept."""
        if self._kept:
            yield from self._kept
            return
        keep: list[Any] | None = [] if self._kept is not None else None
        tokens = 0
        for batch in self.batches():
            tokens += batch.inputs.numel()
            if keep is not None and tokens <= KEEP_TOKENS:
                keep.append(batch)
            else:
                keep = None
            yield batch
        self._kept = keep


def first_rows(
    open_loader: Callable[[], Any], rows: int, batch_size: int, world: World | None = None, device: Any = "cpu"
) -> Callable[[], Iterator[Batch]]:
    """This rank's part of the first `rows` rows of a text, or of those that one pass over it makes, if these are fewer.

    open_loader: a loader of single rows, the same on every rank: all ranks read all rows, and batch after batch of
    `batch_size` rows goes to one rank after the other. So neither their number nor the batch decides what is scored.
    """
    world = world or World()

    def batches() -> Iterator[Batch]:
        with open_loader() as loader:
            read, number = 0, 0
            while read < rows and not loader.used_up:
                taken: list[Any] = []
                while len(taken) < batch_size and read < rows and not loader.used_up:
                    taken.append(loader.next_batch())
                    read += 1
                if number % world.size == world.rank:
                    inputs, targets = (torch.cat(part) for part in zip(*taken, strict=True))  # (B, T)
                    yield Batch(inputs.to(device), targets.to(device))
                number += 1

    return batches


def samples(
    model: "GPT", tokenizer: "Tokenizer", prompts: Sequence[str] = PROMPTS, *, max_tokens: int = 16,
    temperature: float = 0.0, seed: int = 42,
) -> list[str]:  # fmt: skip
    """How the model continues each prompt, prompt included; at temperature 0 the likeliest words.

    A prompt that its context has no room for is left out; where that is every one, it begins with nothing.
    """
    from nanochat.engine import Engine

    training = model.training
    model.eval()
    engine, texts, context = Engine(model, tokenizer), [], model.config.sequence_len
    encoded = [ids for prompt in prompts if len(ids := tokenizer.encode(prompt, prepend="<|bos|>")) < context]
    for ids in encoded or [[tokenizer.get_bos_token_id()]]:
        room = min(max_tokens, context - len(ids))
        rows, _ = engine.generate_batch(ids, max_tokens=room, temperature=temperature, seed=seed)
        texts.append(tokenizer.decode(rows[0]))
    model.train(training)
    return texts
