"""The house rules hold over the whole tree, and every rule's checker finds a project made to break it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import architecture as rules

ROOT = Path(__file__).parents[1]
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".cfg", ".yml", ".yaml", ".json", ".sh", ""}


def _files() -> dict[str, str]:
    """The text of every file of the project, tracked or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout (or no git): the list of the project's files is not known")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    texts = {}
    for path in paths:
        if path.is_file():
            try:
                texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                texts[path.relative_to(ROOT).as_posix()] = ""  # a binary file: its name counts, its content does not
    return texts


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return _files()


@pytest.fixture(scope="module")
def sources(files) -> dict[str, str]:
    return {path: text for path, text in files.items() if path.endswith(".py")}


def test_who_imports_whom(sources):
    assert rules.import_violations(sources) == []


def test_torch_is_loaded_at_import_only_by_model_code(sources):
    assert rules.torch_violations(sources) == []


def test_no_file_is_too_long(sources):
    assert rules.size_violations(sources) == []


def test_every_flag_has_help_and_dashes(sources):
    assert rules.flag_violations(sources) == []


def test_a_feature_has_one_stem_in_every_room(sources):
    assert rules.stem_violations(sources) == []


def test_readme_names_every_file_and_no_other(files):
    assert rules.tree_violations(files["README.md"], files) == []


def test_make_targets_in_texts_exist(files):
    documents = {path: text for path, text in files.items() if path.endswith(".md")}
    assert rules.target_violations(documents, files["Makefile"]) == []


def test_every_dependency_is_used_and_explained(files, sources):
    assert rules.dependency_violations(files["pyproject.toml"], files["README.md"], sources) == []


def test_bad_input_has_an_error_type_of_its_own(sources):
    ours = {path: text for path, text in sources.items() if path.startswith(("nanochat/", "kernels/"))}
    assert rules.plain_error_violations(ours) == []


def test_a_plain_error_is_found():
    bad = {"nanochat/a.py": "def f():\n    raise ValueError('x')\n", "kernels/b.py": "raise RuntimeError"}
    assert [line.split()[0] for line in rules.plain_error_violations(bad)] == ["kernels/b.py:1", "nanochat/a.py:2"]


def test_no_path_of_one_machine(files):
    texts = {path: text for path, text in files.items() if Path(path).suffix in TEXT_SUFFIXES}
    assert rules.path_violations(texts) == []


# Each of these projects breaks one rule; the words after it must be in what the checker says.
BAD_IMPORTS = {
    "a tool that imports a page": ({"nanochat/tools/a.py": "import pages.b", "pages/b.py": ""}, "(tools) imports"),
    "a page that imports a tool": (
        {"pages/a.py": "from nanochat.tools import b", "nanochat/tools/b.py": ""},
        "nanochat.tools.b (tools)",
    ),
    "the core that imports an analysis": (
        {"nanochat/gpt.py": "def f():\n    from nanochat.analysis import x", "nanochat/analysis/x.py": ""},
        "(core) imports",
    ),
    "streamlit in an analysis": ({"nanochat/analysis/x.py": "import streamlit as st"}, "imports streamlit outside"),
    "triton in the model": ({"nanochat/gpt.py": "from triton import language"}, "imports triton outside"),
    "triton in a fallback": ({"kernels/sample/torch_impl.py": "import triton"}, "imports triton outside"),
    "the model behind the front of kernels": (
        {"nanochat/gpt.py": "from kernels.sample import torch_impl", "kernels/sample/torch_impl.py": ""},
        "only its front is open",
    ),
    "a page that imports kernels": ({"pages/a.py": "import kernels", "kernels/__init__.py": ""}, "(pages) imports"),
    "kernels that import the core": (
        {"kernels/backend.py": "from nanochat import paths", "nanochat/paths.py": ""},
        "(kernels) imports",
    ),
    "kernels that import polars": ({"kernels/benchmark.py": "import polars"}, "torch, triton and numpy alone"),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_the_import_checker_finds(case):
    sources, words = BAD_IMPORTS[case]
    assert any(words in problem for problem in rules.import_violations(sources)), rules.import_violations(sources)


def test_the_import_checker_lets_the_rules_pass():
    sources = {
        "Home.py": "import streamlit\nfrom nanochat.ui import text",
        "nanochat/ui/text.py": "from nanochat import paths",
        "nanochat/paths.py": "import os",
        "nanochat/gpt.py": "import torch\nimport kernels\nfrom kernels import attention\nfrom kernels.backend import x",
        "nanochat/tools/a.py": "from nanochat.analysis.a import report",
        "nanochat/analysis/a.py": "from kernels import attention",
        "kernels/__init__.py": "from kernels.attention import attention",
        "kernels/attention/__init__.py": "import torch",
        "kernels/attention/triton_impl.py": "import triton",
        "kernels/backend.py": "import numpy",
        "tests/test_a.py": "import streamlit, triton, nanochat.tools.a, kernels.attention",
    }
    assert rules.import_violations(sources) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from torch import Tensor",
        "try:\n    import torch.nn\nexcept ImportError:\n    pass",
        "class A:\n    import torch",
        "from nanochat.gpt import GPT",
        "from nanochat import gpt",
        "import nanochat.middle",
    ],
)
def test_the_torch_checker_finds(source):
    sources = {
        "nanochat/light.py": source,
        "nanochat/middle.py": "def f():\n    pass\nimport kernels",
        "nanochat/gpt.py": "import torch",
        "kernels/__init__.py": "import torch",
    }
    assert any(problem.startswith("nanochat/light.py") for problem in rules.torch_violations(sources))


def test_the_torch_checker_lets_late_and_type_only_imports_pass():
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    from nanochat import gpt"
    )
    assert rules.torch_violations({"nanochat/light.py": source, "nanochat/gpt.py": "import torch"}) == []


def test_the_size_checker_finds():
    assert rules.size_violations(
        {"nanochat/a.py": "x\n" * 401, "pages/a.py": "x\n" * 151, "nanochat/b.py": "x\n" * 400}
    ) == [
        "nanochat/a.py has 401 lines, the limit is 400: split it by idea",
        "pages/a.py has 151 lines, the limit is 150: split it by idea",
    ]


def test_the_flag_checker_finds():
    source = "p.add_argument('--a_b', help='x')\np.add_argument('--c')\np.add_argument('-d', '--d-e', help='x')"
    found = rules.flag_violations({"nanochat/tools/a.py": source})
    assert [words in problem for words, problem in zip(["underscore", "no help"], found, strict=True)] == [True, True]


def test_the_stem_checker_finds():
    sources = {
        "nanochat/tools/a.py": "",
        "pages/a.py": "",
        "nanochat/analysis/a/__init__.py": "",
        "nanochat/tools/__init__.py": "",
    }
    assert rules.stem_violations(sources) == ["nanochat/tools/a.py has no tests/test_a.py beside it"]


README = """# x

## Files

words

```
Home.py      page
nanochat/
  gpt.py     model
  gone.py    was here
  ui/
    a.py     x
tests/       tests
pages/       views
```
"""


def test_the_tree_checker_finds():
    files = dict.fromkeys(["Home.py", "nanochat/gpt.py", "nanochat/new.py", "nanochat/ui/a.py", "tests/test_x.py"], "x")
    files |= {"nanochat/ui/__init__.py": "", ".gitignore": "x"}
    assert rules.tree_violations(README, files) == [
        "README's tree does not name nanochat/new.py",
        "README's tree names nanochat/gone.py, which does not exist",
        "README's tree names pages/, which holds nothing",
    ]
    assert rules.tree_violations("no tree", {"a.py": "x"}) == ["README's tree does not name a.py"]


def test_the_target_checker_finds():
    documents = {
        "README.md": "run `make check` and `make nothing`, which make\nsense\n    make test\n    make gone  # x"
    }
    found = rules.target_violations(documents, "check: a\n\techo\ntest:\n")
    assert [problem.split("`")[1] for problem in found] == ["make nothing", "make gone"]


def test_the_dependency_checker_finds():
    pyproject = '[project]\ndependencies = ["torch>=2", "rich", "numpy; x"]'
    sources = {"nanochat/a.py": "def f():\n    import torch.nn\nimport numpy", "tests/test_a.py": "import rich"}
    assert rules.dependency_violations(pyproject, "| torch | tensors |", sources) == [
        "pyproject.toml asks for rich, and no code imports it",
        "README does not say why rich is here",
        "README does not say why numpy is here",
    ]


def test_the_path_checker_finds():
    own = ["/" + "home/me/x", "/" + "Users/me/x", "/" + "data/runs/d4"]
    fine = [
        "/etc/passwd",
        "/path/to/nanochat",
        "a/b/c",
        "https://pytorch.org/get-started/locally",
        "x = f'{a}/b/c'",
        "~/a/b",
    ]
    assert len(rules.path_violations({"a.md": "\n".join(f"see {path} there" for path in own)})) == 3
    assert rules.path_violations({"a.md": "\n".join(fine)}) == []


def _commands() -> list[str]:
    """Every module a person can run."""
    from nanochat.__main__ import find_commands

    return ["nanochat", *(command.module for command in find_commands())]


# Runs a module with --help as `python -m` does, then says which heavy packages that loaded.
PROBE = """
import runpy, sys
module = sys.argv[1]
sys.argv = [module, "--help"]
status = None
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    status = stop.code
print("\\nstatus", status, "loaded", sorted({"torch", "triton", "streamlit", "polars"} & set(sys.modules)))
"""


def _help(module: str, cwd: Path = ROOT) -> tuple[str, str]:
    """What `python -m module --help` prints, and the probe's verdict."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    text, _, verdict = done.stdout.rstrip().rpartition("\n")
    return text, verdict + done.stderr


@pytest.mark.parametrize("module", _commands())
def test_help_loads_nothing_heavy(module):
    text, verdict = _help(module)
    assert verdict == "status 0 loaded []", verdict
    assert "usage" in text.lower()


def test_the_help_probe_finds_torch(tmp_path):
    (tmp_path / "heavy.py").write_text("import sys, torch\nprint('usage')\nsys.exit(0)\n")
    assert _help("heavy", cwd=tmp_path)[1] == "status 0 loaded ['torch']"
