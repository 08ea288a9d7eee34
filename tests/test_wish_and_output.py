"""docs/wish_and_output.md: what was wished for beside what is printed today; the commands run again, word for word."""

import importlib
import re
from pathlib import Path

import pytest

from nanochat import paths
from nanochat.errors import exit_status
from tests.dataset_inspector_support import lines_file, talk
from tests.test_tokenizer_playground_cli import wish_tokenizer

DOCUMENT = Path(__file__).parents[1] / "docs" / "wish_and_output.md"
SECTION = re.compile(
    r"^## `nanochat (\w+)([^\n`]*)`$.*?^```\n(.*?)^```\n.*?^```\n(.*?)^```\n", re.MULTILINE | re.DOTALL
)
SECTIONS = [found.groups() for found in SECTION.finditer(DOCUMENT.read_text(encoding="utf-8"))]
LEFT_OUT = {  # what of the wish's example ours says in other words; the document says which
    "tokenizer_playground": ("(Each color", "Hello world!"),
    "dataset_inspector": ("Your conversations are medium length",),
    "conversation_template_builder": ("(Green = supervised", "[Red tokens"),
}


def labels(text: str) -> list[str]:
    """What stands before a colon or fills a line, without figures and examples."""
    found = []
    for line in text.splitlines():
        label = re.split(r"  <--|: |:$", line.strip())[0].strip()
        if label and not re.search(r"\d|<\||^[-=]+$|  ", label):
            found.append(label)
    return found


def test_the_three_data_tools_are_there():
    assert [tool for tool, *_ in SECTIONS] == [
        "tokenizer_playground", "dataset_inspector", "conversation_template_builder",
    ]  # fmt: skip


@pytest.mark.parametrize(("tool", "flags", "wish", "ours"), SECTIONS, ids=[one[0] for one in SECTIONS])
def test_what_is_printed_is_what_the_document_says(tool, flags, wish, ours, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))
    wish_tokenizer().save(paths.workspace() / "tokenizer")
    lines_file(tmp_path / "chats.jsonl", *[talk(f"Question {n}?", "A word. " * n) for n in range(1, 41)])
    arguments = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', flags)]
    main = importlib.import_module(f"nanochat.tools.{tool}").main
    assert exit_status(tool, lambda: main(arguments)) == 0
    printed = capsys.readouterr().out.replace(str(paths.workspace()), "~/.cache/nanochat-lab")
    printed = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"
    assert printed == ours, "bring the document up to date"
    missing = [one for one in labels(wish) if one not in ours and not one.startswith(LEFT_OUT[tool])]
    assert missing == []
