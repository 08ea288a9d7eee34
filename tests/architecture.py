"""The rules of docs/architecture.md as functions: source text in, sentences about what breaks a rule out.

They take the files as a dict of path -> text, so that test_architecture.py can run them on the project and on a tiny
project made to break each rule.
"""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

Sources = Mapping[str, str]  # path below the project's folder, with forward slashes -> text

# Which rooms a room may import from. Every room may import from itself except those that stand alone.
ALLOWED_ROOMS = {
    "pages": {"ui", "analysis", "charts", "core"},
    "ui": {"ui", "analysis", "charts", "core"},
    "tools": {"tools", "analysis", "charts", "core"},
    "scripts": {"analysis", "charts", "core"},
    "analysis": {"analysis", "core", "kernels"},
    "charts": {"charts", "core"},
    "benchmarks": {"benchmarks", "ui", "analysis", "core", "kernels"},
    "core": {"core", "kernels"},
    "kernels": {"kernels"},
}
KERNELS_FROM_OUTSIDE = {"kernels", "kernels.backend", "kernels.benchmark"}
KERNELS_MAY_IMPORT = {"torch", "triton", "numpy", "kernels"}

# Files that may load torch as soon as they are imported: model code, and what cannot be named without it.
TORCH_AT_IMPORT = re.compile(
    r"nanochat/(gpt|gradients|kv_cache|engine|decode|loss_eval|dataloader|sft_data)\.py"
    r"|nanochat/(optim(_groups|_math|_ranks|_state)?|training(_evaluation)?)\.py|nanochat/benchmarks/.*|kernels/.*"
)
TRITON_FILES = re.compile(r"kernels/\w+/triton_impl(_\w+)?\.py|kernels/(tune|ahead_of_time)\.py")
STREAMLIT_FILES = re.compile(r"Home\.py|pages/.*|nanochat/ui/.*")
LINE_LIMITS = [(re.compile(r"Home\.py|pages/.*"), 150), (re.compile(r".*\.py"), 400)]  # the first that matches


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    module: str  # dotted, absolute
    at_import: bool  # runs when the file is imported: not inside a function, not under TYPE_CHECKING
    line: int
    member: bool = False  # the b of `from a import b`: a module or just a name in a


def room_of(path: str) -> str | None:
    """The room a file belongs to; None for tests and everything else that no rule binds."""
    parts = PurePosixPath(path).parts
    if path == "Home.py" or parts[0] == "pages":
        return "pages"
    if parts[0] == "kernels":
        return "kernels"
    if parts[0] != "nanochat":
        return None
    folder = parts[1]
    return folder if folder in ALLOWED_ROOMS else "core"  # nanochat/*.py, stories/ and tasks/ are the core


@functools.cache
def imports_of(source: str) -> list[Import]:
    """Every import of a file, `from a import b` as both a and a.b (b may be a module)."""
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, at_import, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append(Import(node.module, at_import, node.lineno))
            found.extend(Import(f"{node.module}.{alias.name}", at_import, node.lineno, True) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, False)
            for child in node.orelse:
                visit(child, at_import)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not inside)

    visit(ast.parse(source), True)
    return found


def file_of(module: str, sources: Sources) -> str | None:
    """The file that a dotted name of this project stands for; None if it is no module of ours."""
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in sources), None)


def import_violations(sources: Sources) -> list[str]:
    """Who imports whom: the room table, the doors of kernels, and where streamlit and triton may be."""
    problems = []
    for path, source in sources.items():
        room = room_of(path)
        if room is None:
            continue
        for imported in imports_of(source):
            where = f"{path}:{imported.line}"
            top = imported.module.partition(".")[0]
            target = file_of(imported.module, sources)
            if top == "streamlit" and not STREAMLIT_FILES.fullmatch(path):
                problems.append(f"{where} imports streamlit outside Home.py, pages/ and nanochat/ui/")
            if top == "triton" and not TRITON_FILES.fullmatch(path):
                problems.append(f"{where} imports triton outside kernels/*/triton_impl.py, the tuner and the compiler")
            if target is not None and room_of(target) not in ALLOWED_ROOMS[room] | {None}:
                problems.append(f"{where} ({room}) imports {imported.module} ({room_of(target)})")
            # `from kernels import attention` takes a function that shares its name with a folder: the front is a door.
            door = imported.module.rpartition(".")[0] if imported.member else imported.module
            if room != "kernels" and top == "kernels" and door not in KERNELS_FROM_OUTSIDE:
                problems.append(f"{where} imports {imported.module}: outside kernels/ only its front is open")
            if room == "kernels" and top not in sys.stdlib_module_names and top not in KERNELS_MAY_IMPORT:
                problems.append(f"{where} imports {top}: kernels/ needs torch, triton and numpy alone")
    return sorted(set(problems))


def torch_violations(sources: Sources) -> list[str]:
    """Files that load torch when imported, on their own or through another file of ours, and are not allowed to."""
    runs: dict[str, list[tuple[int, str]]] = {}  # file -> (line, file of ours that importing it runs)
    loads: dict[str, str] = {}  # file -> why
    for path, source in sources.items():
        at_import = [imported for imported in imports_of(source) if imported.at_import]
        runs[path] = [(one.line, target) for one in at_import for target in _files_run_by(one.module, sources)]
        torch = next((one for one in at_import if one.module.partition(".")[0] == "torch"), None)
        if torch is not None:
            loads[path] = f"line {torch.line}"
    changed = True
    while changed:  # a file that runs one which loads torch loads it too, until nothing is new
        changed = False
        for path, targets in runs.items():
            through = next(((line, target) for line, target in targets if target in loads), None)
            if path not in loads and through is not None:
                loads[path] = f"line {through[0]}, through {through[1]}"
                changed = True
    return [
        f"{path} loads torch when it is imported ({loads[path]})"
        for path in sources
        if room_of(path) and not TORCH_AT_IMPORT.fullmatch(path) and path in loads
    ]


def _files_run_by(module: str, sources: Sources) -> Iterator[str]:
    """Importing a.b.c runs the files of a, a.b and a.b.c."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        target = file_of(".".join(parts[:length]), sources)
        if target is not None:
            yield target


def size_violations(sources: Sources) -> list[str]:
    """Files longer than their room allows."""
    problems = []
    for path, source in sources.items():
        limit = next((limit for pattern, limit in LINE_LIMITS if pattern.fullmatch(path)), None)
        lines = len(source.splitlines())
        if limit is not None and lines > limit:
            problems.append(f"{path} has {lines} lines, the limit is {limit}: split it by idea")
    return problems


def flag_violations(sources: Sources) -> list[str]:
    """Command line flags without help, or with underscores."""
    problems = []
    for path, source in sources.items():
        if not re.fullmatch(r"nanochat/(tools|scripts|benchmarks)/.*\.py|kernels/\w+\.py", path):
            continue
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr != "add_argument":
                continue
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if not any(keyword.arg == "help" for keyword in node.keywords):
                problems.append(f"{path}:{node.lineno} {names} has no help")
            problems += [
                f"{path}:{node.lineno} {name} has an underscore" for name in names if re.match(r"--\w*_", name)
            ]
    return problems


def stem_violations(sources: Sources) -> list[str]:
    """Features that are missing in a room: every tool has an analysis, a page and a test of the same name."""
    problems = []
    for path in sources:
        match = re.fullmatch(r"nanochat/tools/([a-z]\w*)\.py", path)
        if match is None:
            continue
        stem = match[1]
        rooms = {
            f"nanochat/analysis/{stem}.py": f"nanochat/analysis/{stem}/__init__.py",  # an analysis may be a package
            f"pages/{stem}.py": None,
            f"tests/test_{stem}.py": None,
        }
        problems += [
            f"{path} has no {expected} beside it"
            for expected, other in rooms.items()
            if expected not in sources and other not in sources
        ]
    return problems


def tree_of(readme: str) -> set[str]:
    """The paths that the README's tree names: the code block after "## Files", two spaces a level, folders with /."""
    block = re.search(r"^## Files$.*?^```\w*\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if block is None:
        return set()
    named, parents = set(), [""]
    for line in block[1].splitlines():
        if not line.strip():
            continue
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = parents[depth] + name
        named.add(path)
        if name.endswith("/"):
            parents[depth + 1 :] = [path]
    return named


def tree_violations(readme: str, files: Mapping[str, str]) -> list[str]:
    """Differences between the README's tree and the files. A folder with nothing below it names all that it holds."""
    named = tree_of(readme)
    folders = {name for name in named if name.endswith("/")}
    closed = {folder for folder in folders if not any(name != folder and name.startswith(folder) for name in named)}
    expected = {
        path
        for path, text in files.items()
        if not any(path.startswith(folder) for folder in closed)
        and not (path.endswith("__init__.py") and not text.strip())  # an empty one only marks a package
        and not PurePosixPath(path).name.startswith(".git")
    }
    problems = [f"README's tree does not name {path}" for path in sorted(expected - named)]
    problems += [f"README's tree names {path}, which does not exist" for path in sorted(named - folders - set(files))]
    empty = {folder for folder in folders if not any(path.startswith(folder) for path in files)}
    return problems + [f"README's tree names {folder}, which holds nothing" for folder in sorted(empty)]


def target_violations(documents: Mapping[str, str], makefile: str) -> list[str]:
    """`make x` in a text where the Makefile has no target x."""
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    return [
        f"{path} says `make {target}`, and the Makefile has no such target"
        for path, text in documents.items()
        for target in re.findall(r"(?:`|^\s*)make ([a-z][\w-]*)", text, re.MULTILINE)
        if target not in targets
    ]


def dependency_violations(pyproject: str, readme: str, sources: Sources) -> list[str]:
    """Dependencies that no code imports, or that the README does not explain in its table."""
    declared = [re.split(r"[^\w-]", line)[0] for line in tomllib.loads(pyproject)["project"]["dependencies"]]
    module = {"vl-convert-python": "vl_convert"}  # where the package's name is not what is imported
    imported = {
        imported.module.partition(".")[0]
        for path, source in sources.items()
        if room_of(path)
        for imported in imports_of(source)
    }
    problems = [
        f"pyproject.toml asks for {name}, and no code imports it"
        for name in declared
        if module.get(name, name) not in imported
    ]
    explained = set(re.findall(r"^\| ([\w-]+) \|", readme, re.MULTILINE))
    return problems + [f"README does not say why {name} is here" for name in declared if name not in explained]


# Folders that are the same on every machine of their kind, and the one that stands for any path in an example.
COMMON_FOLDERS = {
    "bin",
    "dev",
    "etc",
    "lib",
    "lib64",
    "nonexistent",
    "path",
    "proc",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "v1",
    "var",
}


def path_violations(texts: Mapping[str, str]) -> list[str]:
    """Absolute paths that exist on one machine only."""
    absolute = re.compile(r"(?<![\w.:/~$}\])>*?-])/([A-Za-z][\w-]*)/[\w.]")
    return [
        f"{path}:{number} names a path of one machine: {match[0]}…"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        for match in absolute.finditer(line)
        if match[1] not in COMMON_FOLDERS
    ]


def plain_error_violations(sources: Sources) -> list[str]:
    """A plain ValueError reads as a bug (nanochat/errors.py): bad input raises a type of its module's own."""
    found = []
    for path, source in sorted(sources.items()):
        for node in ast.walk(ast.parse(source)):
            raised = node.exc if isinstance(node, ast.Raise) else None
            name = raised.func if isinstance(raised, ast.Call) else raised
            if isinstance(name, ast.Name) and name.id in ("ValueError", "Exception", "RuntimeError"):
                found.append(f"{path}:{node.lineno} raises a plain {name.id}; give it a type with a docstring")
    return found
