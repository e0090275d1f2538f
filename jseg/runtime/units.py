"""Compiles Jittor's core in units of several files, so that what the files share is compiled once.

The object file of a unit bears the name of its first file, and those of the others are empty archives. So Jittor links
what it always links; only files of one folder, whose order Jittor leaves to chance, are initialised in another order.
"""

import re
import shutil
from itertools import groupby
from pathlib import Path
from types import ModuleType

FOLDERS = ("gen", "mem/allocator", "ops", "opt/pass", "opt/tuner", "pyjt", "test")  # whose names do not clash
SELDOM = ("gen", "test")  # at -O1: they read arguments of calls from Python, or never run
LARGE = 100_000  # bytes of a file that stays alone


def install(jittor_utils: ModuleType) -> None:
    """Lets Jittor compile its core in units, and data.cc beside them instead of before them."""
    run_cmd, run_cmds, late = jittor_utils.run_cmd, jittor_utils.run_cmds, []

    def run_one(command: str, *options: object, **named: object) -> str:
        if not command.endswith('/data.o"'):
            return run_cmd(command, *options, **named)
        source = command.split('"')[-4]  # Jittor then removes it
        late.append(command.replace(f'"{source}"', f'-w "{shutil.copy(source, f"{source[:-3]}_.cc")}"'))
        return ""

    def run_all(commands: list[str], cache: str, jittor: str, message: str = "") -> None:
        try:
            run_cmds(late + in_units(commands, Path(cache), Path(jittor)), cache, jittor, message)
        except Exception:  # with a compiler that we do not know: then file by file
            run_cmds(late + commands, cache, jittor, message)
        late.clear()

    jittor_utils.run_cmd, jittor_utils.run_cmds = run_one, run_all


def in_units(commands: list[str], cache: Path, jittor: Path) -> list[str]:
    """The commands to run in place of `commands`, with those of units, whose texts are written into the folder `cache`.

    A unit of which a file has been compiled by its own command stays file by file.
    """
    folders, result = {jittor / "src" / name: name for name in FOLDERS} | {cache / "gen": "gen"}, []

    def unit_of(command: str) -> tuple[str, str]:
        folder = folders.get(_source(command).parent, "")
        return (command if folder and _source(command).stat().st_size > LARGE else ""), folder

    # large files first, they take longest; what Jittor initialises first is not beside the others of its folder
    for (_, folder), unit in groupby(sorted(commands, key=lambda command: unit_of(command)[0], reverse=True), unit_of):
        members = sorted(unit)
        result += [_unit(folder, members, cache)] if folder and not any(map(_has_run, members)) else members
    return result


def _source(command: str) -> Path:
    return Path(command.split('"')[3])


def _object(command: str) -> Path:
    return Path(command.split('"')[-2])


def _has_run(command: str) -> bool:
    key = _object(command).with_suffix(".o.key")  # where Jittor notes what has made the object file
    return key.exists() and key.read_text(encoding="utf-8").startswith(f"{command}\n")


def _unit(folder: str, commands: list[str], cache: Path) -> str:
    """Writes the text of a unit and the empty objects of all files but the first; returns the unit's command."""
    text, unit = "", cache / "units" / _source(commands[0]).name
    for number, source in enumerate(map(_source, commands)):
        # constants of one file, under names that other files use as well
        names = re.findall(r"^static auto (\w+)", source.read_text(encoding="utf-8"), re.MULTILINE)
        text += "".join(f"#define {name} {name}_{number}\n" for name in names)
        text += f'#include "{folder}/{source.name}"\n' + "".join(f"#undef {name}\n" for name in names)
    for command in commands[1:]:
        _object(command).write_bytes(b"!<arch>\n")
    unit.parent.mkdir(exist_ok=True)
    unit.write_text(text, encoding="utf-8")
    command = commands[0].replace(f'"{_source(commands[0])}"', f'"{unit}"')
    return command.replace(" -O2 ", " -O1 ") if folder in SELDOM else command
