"""The dataset inspector's page: nothing chosen, an example, a file, a bad file, hostile content, plain text."""

import importlib
import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import jobs, paths
from nanochat.analysis.dataset_inspector import as_json, counting, find_sources, inspect
from nanochat.benchmarks.make_conversations import planted
from nanochat.tokenizer import train_tokenizer
from nanochat.ui import errors
from nanochat.ui.dataset_inspector import EXAMPLE
from tests.dataset_inspector_support import TOKENIZER, lines_file, look, talk
from tests.page_support import words
from tests.test_dataset_inspector_extras import HOSTILE

PAGE = Path(__file__).parents[1] / "pages" / "dataset_inspector.py"


def _open(**state):
    """The page as Home.py runs it, with some widgets set."""
    page = AppTest.from_file(str(PAGE), default_timeout=60)
    page.session_state["shell"] = True
    for name, value in state.items():
        page.session_state[f"dataset_inspector_{name}"] = value
    page.run()
    assert not page.exception
    return page


def _figures(page):
    return {metric.label: metric.value for metric in page.metric}


def test_nothing_chosen_teaches_what_it_takes():
    page = _open()
    assert '{"messages": [{"role": "user"' in words(page)
    assert "nanochat dataset_inspector chats.jsonl" in words(page)
    assert not page.metric
    assert not page.error
    assert not paths.workspace().exists()


def test_the_example_shows_every_part_of_a_report(tmp_path):
    page = _open(where="Example")
    report = look(lines_file(tmp_path / "example.jsonl", EXAMPLE))
    figures = _figures(page)
    assert figures["Lines"] == str(report.lines) == "7"
    assert figures["Errors"] == str(report.error_lines) == "3"
    assert figures["Conversations"] == str(report.conversations)
    assert "Tokens" not in figures
    assert "nanochat tok_train makes one" in words(page), "without a tokenizer it says what is missing"
    issues = next(frame.value for frame in page.dataframe if "what is wrong" in frame.value)
    assert issues["line"].tolist() == [3, 4, 5, 6]


def test_a_file_on_this_machine_has_the_terminals_figures(tmp_path):
    TOKENIZER.save(paths.workspace() / "tokenizer")
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"".join(line for line, _ in planted(200, 1) if len(line) < 10**6))
    page = _open(path=str(path), by="source")
    found = as_json(look(path, tokens=True, by="source"))
    figures = _figures(page)
    assert figures["Errors"] == f"{found['error_lines']:,}"
    assert figures["Messages"] == f"{found['messages']:,}"
    assert figures["Tokens"] == f"{found['tokens']['total']:,}"
    assert figures["Best length"] == f"{found['tokens']['recommended']:,}"
    groups = next(frame.value for frame in page.dataframe if "share" in frame.value)
    assert set(groups["group"]) == {row["group"] for row in found["groups"]}
    page.selectbox("dataset_inspector_kind").set_value("dup_key").run()
    shown = next(frame.value for frame in page.dataframe if "what is wrong" in frame.value)
    assert len(shown) == found["kinds"]["dup_key"]
    assert all("dup_key" in kinds for kinds in shown["kinds"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\x7fELF\0\0\0", "this is a binary file"),
        ("a.jsonl.gz", b"\x1f\x8bnot really", "cannot be unpacked"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    page = _open(path=str(tmp_path / name))
    assert page.error[0].value == "Something failed while inspecting the data set."
    assert sentence in words(page)
    assert not errors.log_file().exists(), "it is no bug"


def test_a_failed_inspection_leaves_no_bar_and_no_stop(tmp_path):
    (tmp_path / "a.txt").write_text("Some text.")
    lines_file(tmp_path / "b.jsonl", talk())
    page = _open(path=str(tmp_path))
    assert "some files are plain text" in words(page)
    assert "dataset_inspector_stop" not in {button.key for button in page.button}


def test_uploads_good_and_bad(tmp_path):
    page = _open(where="Upload")
    good = b"".join(line for line, _ in planted(150, 3) if len(line) < 10**6)
    page.file_uploader[0].upload("chats.jsonl", good).run()
    (tmp_path / "chats.jsonl").write_bytes(good)
    assert _figures(page)["Errors"] == f"{look(tmp_path / 'chats.jsonl').error_lines:,}"
    bad = _open(where="Upload")
    bad.file_uploader[0].upload("chats.jsonl", b"\x7fELF" + bytes(99)).run()
    assert not bad.exception
    assert "this is a binary file" in words(bad)


def test_a_broken_tokenizer_is_one_sentence(tmp_path):
    (paths.workspace() / "tokenizer").mkdir(parents=True)
    (paths.workspace() / "tokenizer" / "tokenizer.json").write_text("{broken")
    page = _open(path=str(lines_file(tmp_path / "a.jsonl", talk())))
    assert len(page.error) == 1
    assert "tokenizer.json" in words(page)
    assert not errors.log_file().exists()


def test_hostile_content_reaches_the_page_as_plain_text(tmp_path):
    path = lines_file(
        tmp_path / "<b>\x1b[31m.jsonl",
        {"messages": talk(HOSTILE, HOSTILE), HOSTILE: 1},
        [{"role": HOSTILE, "content": "a"}],
    )
    page = _open(path=str(path))
    assert not any("<script>" in element.value for element in [*page.markdown, *page.caption, *page.warning])
    cells = [str(cell) for frame in page.dataframe for row in frame.value.to_numpy() for cell in row]
    texts = [element.value for element in page.text]
    assert any("<script>" in text for text in texts), "as text it is there"
    assert all(line.isprintable() for text in [*cells, *texts] for line in text.split("\n"))
    assert not any(cell.startswith(tuple("=+-@")) for cell in cells)


def test_plain_text_has_figures_of_its_own(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("The river.\n\nThe stone.\n\nThe river.\n")
    assert _figures(_open(path=str(path)))["Documents"] == "3"
    assert _figures(_open(path=str(path)))["Duplicates"] == "1"


def test_many_bad_lines_come_a_page_at_a_time(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"x\n" * 5_000)
    page = _open(path=str(path))
    assert _figures(page)["Errors"] == "5,000"
    shown = next(frame.value for frame in page.dataframe if "what is wrong" in frame.value)
    assert len(shown) == 50
    assert "1 to 50 of 5,000 lines" in words(page)


def test_a_field_of_the_lines_is_chosen_with_a_click(tmp_path):
    values = [{"messages": talk(), "task": name} for name in ("sums", "sums", "facts")]
    page = _open(path=str(lines_file(tmp_path / "chats.jsonl", *values)))
    page.button("dataset_inspector_by_0").click().run()
    assert not page.exception
    groups = next(frame.value for frame in page.dataframe if "share" in frame.value)
    assert dict(zip(groups["group"], groups["lines"], strict=True)) == {"sums": 2, "facts": 1}
    assert page.text_input("dataset_inspector_by").value == "task"


def test_a_file_without_one_good_line_says_why_there_are_no_rows(tmp_path):
    page = _open(path=str(lines_file(tmp_path / "alpaca.jsonl", *[{"instruction": "Hi", "output": "Ho."}] * 3)))
    assert "none can be read as a conversation; the tab Files repairs" in words(page)


def test_tokens_are_counted_with_the_tokenizer_that_is_chosen(tmp_path, monkeypatch):
    other = train_tokenizer(["What is two and two? It is four."] * 4, 330)
    for name, tokenizer in (("d2", TOKENIZER), ("d3", other)):
        folder = paths.run_folder(paths.workspace(), "base", name)
        folder.mkdir(parents=True)
        tokenizer.save(folder)
    path = lines_file(tmp_path / "chats.jsonl", *[talk("What is two and two?", "It is four.")] * 9)
    found = {}
    for name, tokenizer in (("d2", TOKENIZER), ("d3", other)):
        page = _open(path=str(path), tokenizer=f"base/{name}")
        found[name] = _figures(page)["Tokens"]
        assert f"base_checkpoints/{name}" in words(page)
        assert found[name] == f"{inspect(find_sources([path]), None, tokenizer).tokens.total:,}"
    assert found["d2"] != found["d3"]
    assert _figures(_open(path=str(path)))["Tokens"] == found["d2"], "the first one, unasked"
    begun = []
    monkeypatch.setattr("nanochat.jobs.start", lambda title, commands, facts: begun.extend(commands))
    counting.start(find_sources([path]), "chat", tmp_path / "counts" / "a.parquet", Path("d3"))
    assert begun[0][-2:] == ["--tokenizer-dir", "d3"], "a job counts with the same"


def test_a_job_counts_every_token_and_the_page_takes_over_its_figures(tmp_path, monkeypatch):
    TOKENIZER.save(paths.workspace() / "tokenizer")
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.inspection.SAMPLE", 20)
    begun = []

    def start(title, commands, facts):
        begun.append((title, commands, facts))
        folder = jobs.folder_of_jobs() / f"20260101-00000{len(begun)}"
        folder.mkdir(parents=True)
        said = {"title": title, "commands": commands, "begun": time.time(), "facts": facts}
        (folder / "job.json").write_text(json.dumps(said))
        (folder / "output.log").write_text('{"event": "Progress", "doing": "counting tokens", "done": 1, "total": 2}\n')

    monkeypatch.setattr("nanochat.jobs.start", start)
    data = b"".join(line for line, _ in planted(150, 3) if len(line) < 10**6)
    path = tmp_path / "chats.jsonl"
    path.write_bytes(data)
    upload = _open(where="Upload")
    upload.file_uploader[0].upload("chats.jsonl", data).run()
    upload.button("dataset_inspector_count").click().run()
    assert Path(begun[0][1][0][1]).read_bytes() == data, "a job reads an upload from the workspace"
    page = _open(path=str(path))
    guessed = _figures(page)["Tokens"]
    page.button("dataset_inspector_count").click().run()
    assert not page.exception
    assert begun[1][2]["kind"] == "dataset_inspector", "no other page lists it"
    assert page.button("dataset_inspector_count_stop").label == "Stop counting"
    assert not any(button.key == "dataset_inspector_count" for button in page.button), "one job at a time"
    [[module, *arguments]] = begun[1][1]
    assert importlib.import_module(module).main(arguments) == 0
    page.run()
    exact = look(path, tokens=True, exact=True)
    assert _figures(page)["Tokens"] == f"{exact.tokens.total:,}" != guessed
    assert not any("dataset_inspector_count" in str(button.key) for button in page.button)
    assert _figures(_open(path=str(path)))["Tokens"] == f"{exact.tokens.total:,}", "also in another tab"
    (jobs.folder_of_jobs() / "20260101-000002" / "state.json").write_text('{"state": "finished"}')
    Path(begun[1][2]["counts"]).write_bytes(b"PAR1")
    broken = _open(path=str(path))
    assert "no counted tokens" in broken.warning[0].value
    assert broken.button("dataset_inspector_count").label == "Count again"
