"""Tests of the house itself: its size, its import order, its words, and what a newcomer reads first."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# each part imports only from those before it
ORDER = ("errors", "files", "outputs", "downloads", "released", "config", "runtime", "weights", "data", "metrics",
         "drawing", "ops", "clip", "model", "baselines", "engine", "segmentation", "segmenter", "calibration", "parity",
         "pretraining", "reproduction", "benchmark", "command")  # fmt: skip
CORE = ("config", "clip", "model", "ops", "engine", "segmenter")
WORDS = re.compile(r"(?<![A-Za-z])(pictures?|mend(s|ed|ing)?)(?![A-Za-z])", re.IGNORECASE)  # image, fix
SOURCES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted((ROOT / "jseg").rglob("*.py"))}
TOOLS = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted((ROOT / "tools").glob("*.py"))}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
FUNCTIONS = [(f"{path}:{node.lineno} {node.name}", node) for path, tree in TREES.items() for node in ast.walk(tree)
             if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]  # fmt: skip


def part_of(module: str) -> str:
    """`jseg.model.decoder` -> `model`, `jseg.config_keys` -> `config`."""
    return module.split(".")[1].partition("_")[0]


def imports(module: str) -> set[str]:
    """Names of our modules that one of them imports anywhere: also inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(TREES[MODULES[module]]):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {"", "jseg", module}


def test_sizes() -> None:
    sizes = {str(path): text.count("\n") for path, text in SOURCES.items()}
    tests = sum(path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "tests").rglob("*.py"))
    core = sum(text.count("\n") for path, text in SOURCES.items() if path.with_suffix("").parts[1].startswith(CORE))
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in FUNCTIONS}
    assert {name: length for name, length in lengths.items() if length >= 60} == {}
    assert {name: size for name, size in sizes.items() if size >= 400} == {}
    assert (core <= 4500, sum(sizes.values()) < 11_718, tests < 14_550) == (True, True, True)


def test_imports_follow_the_order_without_circles() -> None:
    upward = []
    for module, path in MODULES.items():
        if module != "jseg" and path.name != "__main__.py":  # entry points
            parts = {part_of(name) for name in imports(module)}
            upward += [f"{path} imports {part}" for part in parts if ORDER.index(part) > ORDER.index(part_of(module))]
    assert upward == []
    waiting = {module: imports(module) for module in MODULES}
    while free := [module for module, needed in waiting.items() if not needed & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert sorted(waiting) == []


def test_classes_and_functions_that_take_arrays_have_docstrings() -> None:
    silent = []
    for path, tree in TREES.items():
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        bodies = [tree.body, *(node.body for node in classes)]
        for node in (node for body in bodies for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)):
            arrays = re.search(r"ndarray|jt\.Var|ArrayLike", ast.unparse(node).partition("\n")[0])
            if not node.name.startswith("_") and (arrays or isinstance(node, ast.ClassDef)):
                silent += [] if ast.get_docstring(node) else [f"{path}:{node.lineno} {node.name}"]
    assert silent == []


def test_files_say_what_they_hold_in_the_words_of_the_field() -> None:
    wrong = []
    for path, text in (SOURCES | TOOLS).items():
        wrong += [] if ast.get_docstring(ast.parse(text)) else [f"{path}: no docstring"]
        text = re.sub(r'docs/pictures|"[^"]*\{\}[^"]*"', "", text)  # prompts speak as photographers do
        wrong += [f"{path}:{number}" for number, line in enumerate(text.splitlines(), start=1) if WORDS.search(line)]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"(?<![\w/.])((?:jseg|tools|configs|tests)/[\w/]+\.\w+)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_documents_name_every_tool_every_part_and_targets_of_make() -> None:
    readme, commands, parts_of = DOCUMENTS[0], ROOT / "docs" / "commands.md", ROOT / "CONTRIBUTING.md"
    text = "".join(path.read_text(encoding="utf-8") for path in (readme, commands, parts_of))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert readme.read_text(encoding="utf-8").count("\n") <= 120, "two screens"
    parts = [f"jseg/{path.parent.name}" for path in (ROOT / "jseg").glob("*/__init__.py")]
    assert [name for name in [path.name for path in TOOLS] + parts if name not in text] == []
    named = re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
