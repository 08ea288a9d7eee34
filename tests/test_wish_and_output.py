"""docs/wish_and_output.md: what was wished for beside what is printed today; the commands run again, word for word."""

import importlib
import re
from pathlib import Path

import pytest

from nanochat import paths
from nanochat.errors import exit_status
from tests.dataset_inspector_support import lines_file, talk
from tests.test_tokenizer_playground_cli import wish_tokenizer
from tests.wish_support import masked, save_runs

DOCUMENT = Path(__file__).parents[1] / "docs" / "wish_and_output.md"
SECTION = re.compile(
    r"^## `nanochat (\w+)([^\n`]*)`$.*?^```\n(.*?)^```\n.*?^```\n(.*?)^```\n", re.MULTILINE | re.DOTALL
)
SECTIONS = [found.groups() for found in SECTION.finditer(DOCUMENT.read_text(encoding="utf-8"))]
WITH_EXAMPLE = [  # every tool, the dashboard in both of its modes
    "tokenizer_playground", "dataset_inspector", "conversation_template_builder", "training_dashboard",
    "training_dashboard", "checkpoint_browser", "training_resume_helper", "lr_finder", "model_calculator",
    "generation_explorer", "attention_visualizer",
]  # fmt: skip
LEFT_OUT = {  # what of the wish's example ours says in other words; the document says which
    "tokenizer_playground": ("(Each color", "Hello world!"),
    "dataset_inspector": ("Your conversations are medium length",),
    "conversation_template_builder": ("(Green = supervised", "[Red tokens"),
}


def labels(text: str) -> list[str]:
    """What stands before a colon, heads a column or fills a line, without figures and examples."""
    found = []
    for line in text.splitlines():
        label = re.split(r"  <--|: |:$", re.sub(r"^\d+\. ", "", line.strip()))[0]
        if not re.search(r"\b\d|<\||^---", label):
            found += [cell.strip() for cell in re.split(r" +\| |  +", label) if re.search(r"[A-Za-z]", cell)]
    return found


def missing(wish: str, ours: str) -> list[str]:
    """The labels of the wish that ours does not have as labels."""
    there = labels(ours)
    return [label for label in labels(wish) if label not in there]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of the examples in out/; no command that is run in it writes anything."""
    folder = tmp_path_factory.mktemp("runs")
    save_runs(folder / "out")
    return folder


@pytest.fixture
def here(request, runs, tmp_path, monkeypatch) -> Path:
    """Where the commands of a section are run: beside the runs, or beside a data set."""
    if request.node.callspec.params["tool"] in WITH_EXAMPLE[:3]:
        lines_file(tmp_path / "chats.jsonl", *[talk(f"Question {n}?", "A word. " * n) for n in range(1, 41)])
        wish_tokenizer().save(paths.workspace() / "tokenizer")
        return tmp_path
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(runs / "out"))
    return runs


def test_every_example_of_the_wish_is_there():
    assert [tool for tool, *_ in SECTIONS] == WITH_EXAMPLE


@pytest.mark.parametrize(("tool", "flags", "wish", "ours"), SECTIONS, ids=[one[0] + one[1] for one in SECTIONS])
def test_what_is_printed_is_what_the_document_says(tool, flags, wish, ours, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(here / "nothing"))
    arguments = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', flags)]
    main = importlib.import_module(f"nanochat.tools.{tool}").main
    assert exit_status(tool, lambda: main(arguments)) == 0
    printed = masked(capsys.readouterr().out, here).replace(str(paths.workspace()), "~/.cache/nanochat-lab")
    printed = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"
    assert printed == ours, "bring the document up to date"
    left_out = LEFT_OUT.get(tool, ())
    assert [label for label in missing(wish, ours) if not label.startswith(left_out)] == []
    assert [words for words in left_out if not any(one.startswith(words) for one in missing(wish, ours))] == []


def test_a_label_is_found_and_one_that_is_gone_is_missed():
    wish = "Val BPB: 1.2\nModel    | Type\nd20      | base 3\n1. Best rate: 0.1\n3. For new ones, try:\n...\n----\n"
    assert labels(wish) == ["Val BPB", "Model", "Type", "Best rate", "For new ones, try"]
    assert missing(wish, "Val BPB: Type\nModel | Kind\n2. Best rate: 0.3\n3. For new ones, try:") == ["Type"]


def test_only_what_differs_between_machines_is_masked(tmp_path):
    told = f"{tmp_path}/out/d20 | 1.2       | ✓ | 2025-11-07 09:15\nTotal disk usage: 6.4 MB, 1.25 of 0.13 GB\n"
    assert masked(told, tmp_path) == "out/d20 | <size>    | ✓ | <time>\nTotal disk usage: <size>, 1.25 of 0.13 GB\n"
