"""What chat_sft trains on: a file that is named is trained on, or refused."""

import argparse
import json
from pathlib import Path

import pytest

from nanochat.scripts import chat_sft
from nanochat.sft_setup import fit_batch
from nanochat.sft_tasks import ChatSFTError, make_tasks


def chats(path: Path, count: int) -> Path:
    pairs = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes."}] for i in range(count)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.mark.parametrize(
    ("count", "amount", "flags", "words"),
    [
        (0, "", [], "it holds no conversation, so nothing of it would be trained on; name another file"),
        (0, "=3", [], "it holds no conversation"),
        (3, "", ["--val-every=1"], "its only 3 are kept unseen by --val-every.*give --val-every 0"),
        (3, "=0", ["--val-every=0"], "3 conversations shown 0 times are none or too many"),
        (3, "=0.1", ["--val-every=0"], "shown 0.1 times are none"),
        (3, "=-1", ["--val-every=0"], "shown -1 times are none"),
        (3, "=nan", ["--val-every=0"], "shown nan times are none"),
        (3, "=1e9", ["--val-every=0"], "or too many; give a number of passes above 0 and up to 10,000"),
    ],
)
def test_a_file_of_which_nothing_would_be_trained_on_is_refused(
    tmp_path: Path, count: int, amount: str, flags: list[str], words: str
) -> None:
    path = chats(tmp_path / "chats.jsonl", count)
    with pytest.raises(ChatSFTError, match=words):
        make_tasks(chat_sft.parser().parse_args([f"--data={path}{amount}", *flags]))


def test_a_file_with_something_in_it_is_taken(tmp_path: Path) -> None:
    path = chats(tmp_path / "chats.jsonl", 3)
    parts, _ = make_tasks(chat_sft.parser().parse_args([f"--data={path}=0.5", "--val-every=0", "--tasks=none"]))
    assert [(len(part.task), part.epochs) for part in parts] == [(3, 0.5)]


def test_a_short_file_that_chance_puts_aside_is_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    for number in range(200):  # the split goes by the first message: some messages are put aside
        pair = [{"role": "user", "content": f"Question {number}"}, {"role": "assistant", "content": "Yes."}]
        path.write_text(json.dumps(pair) + "\n")
        parts, val = make_tasks(chat_sft.parser().parse_args([f"--data={path}", "--tasks=none"]))
        assert (len(parts[0].task), len(val[0])) == (1, 0)


@pytest.mark.parametrize("spec", ["persona=1e12", "spelling=nan", "spelling=0.5", "counting=inf"])
def test_an_absurd_number_of_conversations_is_refused(spec: str) -> None:
    with pytest.raises(ChatSFTError, match="a whole number of conversations up to 10,000,000"):
        make_tasks(chat_sft.parser().parse_args([f"--tasks={spec}"]))


@pytest.mark.parametrize(
    ("given", "batch", "ranks", "fitted"),
    [
        ((), 1_280, 1, 2_048),  # a demo's: its rows were shorter than its context
        ((), 5_000, 1, 4_096),
        ((), 5_000, 2, 4_096),
        ((), 4_096, 2, 4_096),
        (("total_batch_size",), 1_280, 1, 1_280),  # a person's own wish is not changed: it is refused later, with why
    ],
)
def test_an_inherited_batch_fits_the_rows(given: tuple[str, ...], batch: int, ranks: int, fitted: int) -> None:
    args = argparse.Namespace(device_batch_size=8, max_seq_len=256, total_batch_size=batch)
    said: list[str] = []
    fit_batch(args, frozenset(given), ranks, said.append)
    assert args.total_batch_size == fitted
    assert len(said) == (batch != fitted), "a change is told"
