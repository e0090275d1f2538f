"""What every command-line tool shares: one-line errors, exit codes, the choice of device.

Exit codes: 0 fine; 1 a check failed; 2 a mistake of the user's, or a file that cannot be read or written; 3 a mistake
of jseg's, its traceback in a file (JSEG_DEBUG=1 prints it); 130 interrupted; 141 the output's reader went away, as in
`| head`. A tool imports this module first, so that Ctrl-C is one line while it still imports.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from jseg.errors import CheckFailed, UserError
from jseg.files import save_details, shipped

TOOL_WORDS: dict[str, str] = {}  # tool: its word, while the console command `jseg` runs


def program() -> list[str]:
    """How a command that runs this tool again begins: `python tools/segment.py`, `jseg segment`."""
    if sys.argv[0].startswith("jseg "):
        return sys.argv[0].split()
    name = Path(sys.executable).name
    return [name if shutil.which(name) == sys.executable else sys.executable, sys.argv[0]]  # the latter: no .venv


def command_line() -> str:
    """The command of this process, ready to be pasted."""
    return shlex.join([*program(), *sys.argv[1:]])


def in_words(text: str) -> str:
    """Commands in a text as the console command `jseg` has them, while it runs."""
    if TOOL_WORDS:
        text = re.sub(r"(?:python )?tools/run_net\.py( [^`\n]*?)? ?--task (\w+)", r"jseg \2\1", text)
        text = re.sub(r"(?:python )?tools/(\w+)\.py", lambda tool: f"jseg {TOOL_WORDS.get(tool[1], tool[1])}", text)
    return text


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose mistakes are user errors; the tool's `doc` stands above the options in its help."""

    def __init__(self, doc: str, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=in_words(doc), formatter_class=formatter, **options)
        # for all arguments of type Path: an empty one would be the current folder
        self.register("type", Path, lambda text: Path(text or self.error("a path is empty")))

    def error(self, message: str) -> NoReturn:
        """Raises UserError where argparse would print its usage and exit."""
        raise UserError(f"{message} (see {self.prog} --help)")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--device {auto,cpu,cuda}` and `--no-cuda`, which is `--device cpu`; read `args.device`."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA if it works")
    parser.add_argument("--no-cuda", "--no_cuda", dest="device", action="store_const", const="cpu", help="--device cpu")


def add_weights_options(parser: argparse.ArgumentParser, **weights: Any) -> None:
    """Adds what `load_segmenter` asks for: `--weights` (with the options `weights`), `--training-free`, `--clip`, …"""
    from jseg.config import PRECISIONS, TRAINING_FREE

    text = "weights.safetensors of a jseg run, the authors' checkpoint (.pth, .pkl), or shapes, which comes with jseg"
    parser.add_argument("--weights", type=Path, help=text, **weights)
    text = f"--weights is a plain CLIP, used as it is: {', '.join(TRAINING_FREE)} (class_token is best on drawn scenes)"
    parser.add_argument("--training-free", default="", choices=TRAINING_FREE, metavar="METHOD", help=text)
    text = "CLIP weights (ViT-B-16.pt), whose text tower reads the names where --weights has none: authors' checkpoints"
    parser.add_argument("--clip", default="", metavar="PATH", help=text)
    text = "config of the run that made --weights, where they do not tell: a file, or voc12_inductive"
    parser.add_argument("--config-file", default="", help=text)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of large products; default: fp32")
    add_device_options(parser)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a tool's `main` and exits: with its return value (None = 0), or as an error's kind demands."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: else the next file that is opened would get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        if mode == "w" and hasattr(getattr(sys, name), "reconfigure"):  # no character may fail for the encoding
            getattr(sys, name).reconfigure(errors="backslashreplace")
    code: object = 0
    try:
        code = main() or 0
        sys.stdout.flush()
    except SystemExit as error:  # argparse, after --help
        code = error.code
    except BaseException as error:
        code = exit_code(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            type(stream).flush(stream)  # its own: see `print_without_fail`
        except (OSError, ValueError):  # Python would try it again while it ends, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def run_tool(tool: str, arguments: list[str], meanwhile: Callable[[], object] = lambda: None) -> int:
    """Exit code of one of tools/ in a process of its own, whose output is shown; KeyboardInterrupt if interrupted.

    `meanwhile` is called every second.
    """
    print(in_words(f"$ python tools/{tool}.py {shlex.join(arguments)}"), flush=True)
    process = subprocess.Popen([sys.executable, str(shipped(f"tools/{tool}.py")), *arguments])
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            meanwhile()
    except KeyboardInterrupt:  # it got the signal too: it saves before it ends
        process.wait()
        raise
    if process.returncode == 130:
        raise KeyboardInterrupt
    return process.returncode


def print_without_fail() -> None:
    """From now on no print fails: on a full disk, a closed terminal, or when the reader of the output has gone."""

    def attempt(call: Callable[..., object], *arguments: object) -> None:
        with suppress(OSError, ValueError):
            call(*arguments)

    for stream in (sys.stdout, sys.stderr):
        stream.write, stream.flush = partial(attempt, stream.write), partial(attempt, stream.flush)


def exit_code(error: BaseException) -> int:
    """Prints one line about an error and returns the exit code that belongs to its kind."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return 141
    if os.environ.get("JSEG_DEBUG") == "1":
        traceback.print_exception(error)
    details = "".join(traceback.format_exception(error))
    if isinstance(error, RuntimeError) and re.search("Run cmd failed|Cannot open library|undefined symbol", str(error)):
        from jseg.runtime.start import cache_error

        error = cache_error(details)
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError | UserError):
        cause = cause.__cause__
    if isinstance(cause, OSError):
        where = f"{os.fsdecode(cause.filename)}: " if isinstance(cause.filename, str | bytes) else ""
        cause = UserError(where + (cause.strerror or str(cause)))
    if cause or isinstance(error, KeyboardInterrupt):
        line = in_words(f"error: {cause}") if cause else "interrupted"
        code = 1 if isinstance(cause, CheckFailed) else 2 if cause else 130
    else:
        text = UserError(f"internal error: {type(error).__name__}: {error}")
        line, code = f"{text}; details in {save_details(details)}", 3
    with suppress(OSError, ValueError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)
    return code


def _exit_quietly(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Handles what is raised before `run` begins, while a tool still imports."""
    sys.__excepthook__(kind, error, trace) if issubclass(kind, Exception) else os._exit(exit_code(error))


folder, name = os.path.split(os.path.abspath(sys.argv[0]))
if name in ("-m", "jseg") or os.path.basename(folder) == "tools":
    sys.excepthook = _exit_quietly
