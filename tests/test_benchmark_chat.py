"""The benchmark of replies: every candidate writes the same tokens, and its figures hang together."""

import json
from pathlib import Path

import pytest

from nanochat.benchmarks import chat
from tests.chat_support import teach


def test_all_candidates_are_measured_on_the_same_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(tmp_path)
    monkeypatch.setattr(chat, "REPLIES", 1)
    monkeypatch.setattr(chat, "REST", 0.0)
    flags = ["-i", "sft", "--base-dir", str(tmp_path), "--rounds", "1", "--chats", "2", "--json"]
    assert chat.main(flags) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["records"]] == ["engine", "queue", "terminal", "server"]
    bare = found["records"][0]
    assert (bare["speed_of_engine"], bare["first_over_engine_ms"]) == (1.0, 0.0)
    for one in found["records"]:
        assert one["tokens_per_second"] == pytest.approx(one["speed_of_engine"] * bare["tokens_per_second"])
        assert one["first_ms"] == pytest.approx(bare["first_ms"] + one["first_over_engine_ms"])
    assert found["at_once"]["chats"] == 2


def test_the_page_needs_a_run_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        chat.main(["--browser"])
    assert ended.value.code == 2
    assert "--browser needs --model-tag" in capsys.readouterr().err
