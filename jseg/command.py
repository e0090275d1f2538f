"""The console command `jseg`: a word for each tool of tools/ that needs no checkout."""

from jseg.runtime.command_line import TOOL_WORDS, run

import ast
import importlib.util
import sys
from types import ModuleType
from typing import NoReturn

import jseg
from jseg.errors import UserError, suggestion
from jseg.files import shipped

TASKS = {
    "train": "Trains a model as a config says: jseg train --config shapes_demo",
    "val": "Evaluates weights on a data set: jseg val --config voc12_inductive --weights W data.root=D",
    "test": "Draws label maps and overlays of a data set.",
}
TOOLS = {
    "segment": "segment", "demo": "demo", "plot": "plot_log", "check": "check_dataset", "new-config": "new_config",
    "fetch": "fetch_pretrained", "fetch-dataset": "fetch_dataset", "convert": "convert_weights",
    "convert-config": "convert_config", "embed": "embed_class_names", "calibrate": "calibrate_gamma",
    "reproduce": "reproduce", "benchmark": "benchmark", "parity": "check_parity", "prepare-voc12": "prepare_voc12",
    "prepare-coco-stuff": "prepare_coco_stuff", "prepare-context": "prepare_context", "pretrain": "pretrain_clip",
}  # fmt: skip
REPORT = "What was found on this machine, and what is missing; --check also computes."


def overview() -> str:
    """A line for each word."""
    lines = TASKS | {"report": REPORT}
    for word, tool in TOOLS.items():
        text = ast.get_docstring(ast.parse(shipped(f"tools/{tool}.py").read_text(encoding="utf-8")))
        lines[word] = text.partition("\n")[0]
    rows = "\n".join(f"  {word:<20}{line}" for word, line in lines.items())
    return f"jseg {jseg.__version__}: jseg WORD …, and jseg WORD --help for its options\n\n{rows}"


def load(word: str) -> ModuleType:
    """The tool that a word names; UserError for another word."""
    if word == "report":
        import jseg.runtime.__main__ as report

        return report
    tool = "run_net" if word in TASKS else TOOLS.get(word)
    if tool is None:
        raise UserError(f"jseg {word}: no such command{suggestion(word, [*TASKS, 'report', *TOOLS])}")
    spec = importlib.util.spec_from_file_location(tool, shipped(f"tools/{tool}.py"))
    module = sys.modules[tool] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call() -> int | None:
    """Runs the tool of the command line; returns its exit code."""
    word, *arguments = sys.argv[1:] or ["--help"]
    if word in ("--help", "-h", "help"):
        print(overview())
        return 0
    TOOL_WORDS.update({tool: word for word, tool in TOOLS.items()})
    sys.argv = [f"jseg {word}", *(("--task", word) if word in TASKS else ()), *arguments]
    return load(word).main()


def main() -> NoReturn:
    """The entry point."""
    run(call)
