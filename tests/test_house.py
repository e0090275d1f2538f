"""Tests of the house itself: its size, its import order, its words, and what a newcomer reads first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# each part imports only from those before it
ORDER = ("errors", "files", "config", "runtime", "weights", "data", "metrics", "drawing", "ops", "clip", "model",
         "baselines", "engine", "segmenter", "calibration", "parity", "pretraining", "reproduction",
         "benchmark")  # fmt: skip
CORE = ("config", "clip", "model", "ops", "engine", "segmenter")
WORDS = re.compile(r"pictures?|mend(?:s|ed|ing)?", re.IGNORECASE)  # image, fix
Function = ast.FunctionDef | ast.AsyncFunctionDef
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "jseg").rglob("*.py"))}
TOOLS = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tools").glob("*.py"))}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}


def part_of(path: Path) -> str:
    """`jseg/model/decoder.py` -> `model`."""
    return path.relative_to(ROOT / "jseg").with_suffix("").parts[0]


def lines_of(paths: list[Path]) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Names of our modules that a file imports anywhere: also inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(TREES[path]):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {"", "jseg", module_name(path)}


def functions() -> Iterator[tuple[str, Function]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_sizes() -> None:
    sizes = {path: text.count("\n") for path, text in SOURCES.items()}
    core = sum(size for path, size in sizes.items() if part_of(path) in CORE)
    assert core < 4500
    assert sum(sizes.values()) < 9000
    assert lines_of(sorted((ROOT / "tests").rglob("*.py"))) < 10_500
    assert {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size >= 400} == {}
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in functions()}
    assert {name: length for name, length in lengths.items() if length >= 60} == {}


def test_imports_follow_the_order() -> None:
    upward = []
    for path in SOURCES:
        if part_of(path) == "__init__" or path.name == "__main__.py":  # entry points
            continue
        parts = {name.split(".")[1] for name in imports(path)} - {part_of(path)}
        upward += [f"{path.relative_to(ROOT)} imports {part}" for part in parts
                   if ORDER.index(part) > ORDER.index(part_of(path))]  # fmt: skip
    assert upward == []


def test_there_are_no_import_circles() -> None:
    waiting = {name: imports(path) for name, path in MODULES.items()}
    while free := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert sorted(waiting) == []


def test_every_function_has_type_hints() -> None:
    without = []
    for name, node in functions():
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        hinted = [argument for argument in every if argument and argument.arg not in ("self", "cls")]
        if not all(argument.annotation for argument in hinted) or not node.returns:
            without.append(name)
    assert without == []


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions, and the methods of these classes."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def test_public_functions_and_classes_that_need_a_docstring_have_one() -> None:
    """Those that handle arrays or raise errors."""
    silent = []
    for path, tree in TREES.items():
        for node in public(tree.body):
            signature = [ast.unparse(node.args), ast.unparse(node.returns or ast.Constant(None))] \
                if isinstance(node, Function) else []  # fmt: skip
            arrays = re.search(r"ndarray|jt\.Var|ArrayLike", " ".join(signature))
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if (arrays or raises or isinstance(node, ast.ClassDef)) and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert silent == []


def test_one_word_for_one_thing() -> None:
    wrong = []
    for path, text in (SOURCES | TOOLS).items():
        for number, line in enumerate(text.splitlines(), start=1):
            words = re.findall(r"[A-Za-z]+", line.replace("docs/pictures", "").replace("_", " "))
            parts = [part for word in words for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", word)]
            if any(WORDS.fullmatch(part) for part in parts):
                wrong.append(f"{path.relative_to(ROOT)}:{number} {line.strip()}")
    assert wrong == []


def test_modules_say_what_they_hold() -> None:
    silent = [str(path) for path, text in (SOURCES | TOOLS).items() if not ast.get_docstring(ast.parse(text))]
    assert silent == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"(?<![\w/.])((?:jseg|tools|configs|tests)/[\w/]+\.\w+)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_readme_names_every_tool_and_every_part() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = [f"jseg/{path.parent.name}" for path in (ROOT / "jseg").glob("*/__init__.py")]
    assert [name for name in [path.name for path in TOOLS] + parts if name not in text] == []


def test_make_has_the_targets_of_the_readme() -> None:
    readme, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    named = re.findall(r"(?:`|^)make ([a-z-]+)", readme, flags=re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)
