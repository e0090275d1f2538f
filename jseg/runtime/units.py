"""Compiles Jittor's core in units of several files, so that what the files share is compiled once, and one file fixed.

A unit's object file bears the name of its first file; those of the others are empty archives. So Jittor links what it
always links. Only files of one folder, whose order Jittor leaves to chance, are initialised in another order.
"""

import re
import shutil
from itertools import groupby
from pathlib import Path
from types import ModuleType

from jseg.files import write_if_changed

FOLDERS = ("gen", "mem/allocator", "ops", "opt/pass", "opt/tuner", "pyjt", "test")  # whose files go together
SELDOM = ("gen", "test")  # at -O1: they read arguments of calls from Python, or never run
# In Jittor 1.3.11, a compile thread that is late, or wakes once more, reads what is no longer there; and one whose
# kernel's source calls Python (`jt.isfinite`) does not hold Python's lock: Python 3.12 crashes at once
FIXED = "parallel_compiler.cc"
FIXES = {
    "    if (change_line)\n        std::cerr": "    threads.wait_all();\n    if (change_line)\n        std::cerr",
    "map[jit_key] = 1;": 'if (strstr(jit_key, "@python.")) continue;\n        map[jit_key] = 1;',
    "func(id);": "func(id), func = [](int) {};",
}
# with names that clash, the first and the second one for CUDA, where they also hide all names that follow
ALONE = ("array_op.cc", "fetch_op.cc", "pyjt_jit_flags.cc", "pyjt_jit_op_maker.cc")


def install(jittor_utils: ModuleType) -> None:
    """Lets Jittor compile its core in units, and data.cc beside them instead of before them."""
    run_cmd, run_cmds, late = jittor_utils.run_cmd, jittor_utils.run_cmds, []

    def run_one(command: str, *options: object, **named: object) -> str:
        if not command.endswith('/data.o"'):
            return run_cmd(command, *options, **named)
        source = command.split('"')[-4]  # Jittor removes it when this returns
        late.append(command.replace(source, shutil.copy(source, f"{source[:-3]}_.cc")))
        return ""

    def run_all(commands: list[str], cache: str, jittor: str, message: str = "") -> None:
        commands = [fixed(command, Path(cache)) for command in commands]
        try:
            run_cmds(late + in_units(commands, Path(cache), Path(jittor)), cache, jittor, message)
        except Exception:  # names clash for a compiler that we do not know; Jittor has printed its errors
            if jittor_utils.pool_size:  # units under way write to the same object files
                jittor_utils.p.close()
                jittor_utils.p.join()
                jittor_utils.pool_size = 0
            run_cmds(late + commands, cache, jittor, message)
        late.clear()

    jittor_utils.run_cmd, jittor_utils.run_cmds = run_one, run_all


def fixed(command: str, cache: Path) -> str:
    """The command for a file of Jittor's, or for its fixed copy."""
    source = Path(command.split('"')[3])
    if source.name != FIXED:
        return command
    text = source.read_text(encoding="utf-8")
    for before, after in FIXES.items():
        text = text.replace(before, after)
    write_if_changed(cache / FIXED, text)
    return command.replace(str(source), str(cache / FIXED), 1)


def in_units(commands: list[str], cache: Path, jittor: Path) -> list[str]:
    """What to run in place of Jittor's `commands`: one for a unit; folders once compiled file by file stay so."""
    folders, result = {jittor / "src" / name: name for name in FOLDERS} | {cache / "gen": "gen"}, []

    def place(command: str) -> tuple[str, str]:
        source = Path(command.split('"')[3])
        return source.name if source.name in ALONE else "", folders.get(source.parent, "")

    # pyjt_jit_op_maker.cc first, it takes longest; what Jittor initialises first is not beside the others of its folder
    for (_, folder), group in groupby(sorted(commands, key=lambda command: place(command)[0], reverse=True), place):
        members, text = sorted(group), ""
        keys = [Path(command.split('"')[-2] + ".key") for command in members]  # each begins with the command that ran
        if not folder or any(k.exists() and k.read_text().startswith(c) for k, c in zip(keys, members, strict=True)):
            result += members
            continue
        for source in (Path(command.split('"')[3]) for command in members):
            lines = source.read_text(encoding="utf-8")
            names = re.findall(r"^static auto (\w+)", lines, re.MULTILINE)  # other files have them as well
            macros = set(names + re.findall(r"^ *# *define (\w+)", lines, re.MULTILINE))
            text += "".join(f"#define {name} {name}_{source.stem}\n" for name in names)
            text += f'#include "{folder}/{source.name}"\n' + "".join(f"#undef {name}\n" for name in sorted(macros))
        for key in keys[1:]:
            key.unlink(missing_ok=True)  # of the file alone, with other flags
            key.with_suffix("").write_bytes(b"!<arch>\n")
        unit = cache / "gen" / f"unit_{Path(keys[0].stem).stem}"
        unit.write_text(text, encoding="utf-8")
        level = " -O1 " if folder in SELDOM else " -O2 "
        result.append(members[0].replace(members[0].split('"')[3], str(unit), 1).replace(" -O2 ", level))
    return result
