"""Writes a config file of JSeg or CLIP-RC as one of ours: what differs from our config of the same run.

    python tools/convert_config.py project/clip_rc/voc12/clip_rc_zero_vit-b_512x512_40k_voc_10_16.py voc12.py

`--config-file` of every tool takes the file of a release as it is, too (docs/from_jseg.md); this one can be read and
changed in our terms.
"""

from jseg.runtime.command_line import ArgumentParser, in_words, run

import functools
import os
from pathlib import Path
from typing import Any

from jseg.config import flatten, read_config, to_dict
from jseg.errors import UserError
from jseg.files import write_whole
from jseg.outputs import check_outputs
from jseg.released_configs import REPOSITORY, is_released, read_released, run_file


def as_text(values: dict[str, Any], indent: str) -> str:
    """`key=value,` a line, dictionaries as dict(...)."""
    lines = []
    for key, value in values.items():
        shown = repr(tuple(value) if isinstance(value, list) else value)
        if isinstance(value, dict):
            shown = f"dict(\n{as_text(value, indent + '    ')}{indent})"
        lines.append(f"{indent}{key}={shown},\n")
    return "".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Runs the tool."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("source", type=Path, help="config file of JSeg or CLIP-RC")
    parser.add_argument("target", type=Path, help="Python file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the target")
    options = parser.parse_args(arguments)
    source, target = options.source.resolve(), options.target.resolve()
    check_outputs([target], [source], overwrite=options.overwrite)
    if not is_released(run_file(source)):
        raise UserError(f"{source} is no config of JSeg or CLIP-RC")
    base = read_released(source)[0]
    config, before = to_dict(read_config(source)), flatten(to_dict(read_config(base)))
    changed: dict[str, Any] = {} if config["expected"] else {"expected": {}}
    for name, value in flatten(config).items():
        if value != before.get(name):
            *sections, key = name.split(".")
            functools.reduce(lambda section, part: section.setdefault(part, {}), sections, changed)[key] = value
    near = target.is_relative_to(REPOSITORY)
    text = (
        f'"""{source.name}, converted.\n\n    python tools/run_net.py --config-file {target.name} --task train\n"""\n\n'
    )
    text += f"base = {os.path.relpath(base, target.parent) if near else str(base)!r}\n"
    for name, value in changed.items():
        text += f"{name} = dict(\n{as_text(value, '    ')})\n" if value else f"{name} = {value!r}\n"
    write_whole(target, in_words(text).encode())
    print(f"written: {target}, on top of {base}")


if __name__ == "__main__":
    run(main)
