"""Looks at a folder of images and label maps, tells what is there, and writes a config to start from.

    python tools/new_config.py /data/streets streets.py
    python tools/new_config.py /data/streets streets.py --names classes.txt --unseen "rider, train"

Label maps are palette or 8-bit grey PNGs that hold class numbers. An image and its label map have file names that begin
alike; images may end in .jpg, .jpeg, .png and so on. Folders or lists called train and val say what is for training;
where there are none, every fifth pair is taken for val, and lists are written beside the config. Lines of the config
that you should decide say DECIDE. docs/own_data.md goes on from here.
"""

from jseg.runtime.command_line import ArgumentParser, in_words, run

from pathlib import Path

import numpy as np

from jseg.config import SplitConfig
from jseg.data.folders import Values, find_pairs, find_splits, read_values
from jseg.errors import UserError
from jseg.files import read_lines, write_whole
from jseg.outputs import check_outputs
from jseg.released_configs import REPOSITORY

PASSES = 60  # over the training images, as of the recipe: 40,000 batches of 16 from VOC's 10,582


def names_in(text: str) -> tuple[str, ...]:
    """`cat, dog`, or the lines of a file."""
    names = read_lines(Path(text), "--names") if Path(text).is_file() else text.split(",")
    return tuple(name.strip() for name in names if name.strip())


def describe(values: Values, ignored: tuple[int, ...]) -> str:
    """Image sizes, and a line for each pixel value."""
    widths, heights = zip(*values.sizes, strict=True)
    lines = [f"images of {min(widths)}-{max(widths)} x {min(heights)}-{max(heights)} pixels", "value  pixels %  maps"]
    for value in np.flatnonzero(values.holding):
        note = "  likely: ignore" if value in ignored else ""
        share = 100 * values.pixels[value] / values.pixels.sum()
        lines.append(f"{value:>5}  {share:8.3f}  {values.holding[value]:,} of {values.maps:,}{note}")
    return "\n".join(lines)


def config_text(title: str, data: dict[str, object], splits: dict[str, SplitConfig], images: int) -> str:
    """The config file; `data` holds its values by key."""
    named, steps = not str(data["names"]).startswith("('?"), int(max(1000, round(PASSES * images / 16, -2)))
    advice = {
        "setting": 'DECIDE: "supervised" if training sees all classes',
        "names": "of the pixel values in stored" if named else "DECIDE: a word or two for each pixel value in stored",
        "unseen": "" if data["unseen"] else "DECIDE: those of the names that training does not see",
        "ignored": "DECIDE: pixel values of no class. Background belongs here unless it is a class",
    }
    notes = {key: f"  # {text}" for key, text in advice.items() if text}
    lines = [f"    {key}={value!r},{notes.get(key, '')}\n" for key, value in data.items()]
    for name, files in splits.items():
        changed = {key: value for key, value in vars(files).items() if value != getattr(SplitConfig(), key)}
        lines.append(f"    {name}=dict({', '.join(f'{key}={value!r}' for key, value in changed.items())}),\n")
    return f'''"""Data set {title}; written by tools/new_config.py. Decide the lines marked DECIDE.

    python tools/check_dataset.py --config-file {title}.py
    python tools/run_net.py --config-file {title}.py --task train
    python tools/run_net.py --config-file {title}.py --task val --resume
"""

base = {str(REPOSITORY / "configs" / "voc12_inductive.py")!r}  # the recipe of VOC
data = dict(
{"".join(lines)})
train = dict(iterations={steps}, milestones=({steps // 2},))  # DECIDE: {PASSES} passes over the images, as on VOC
'''


def main(arguments: list[str] | None = None) -> None:
    """Runs the tool."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with images and label maps, in any folders below it")
    parser.add_argument("target", type=Path, help="config file to write")
    parser.add_argument("--labels", default="", help="folder of the label maps in it, where there are others")
    parser.add_argument("--names", default="", help="of the pixel values, in order: with commas, or a file")
    parser.add_argument("--unseen", default="", help="those of them that training does not see")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    options = parser.parse_args(arguments)
    target, root = options.target.resolve(), options.folder.resolve()
    lists = {name: target.with_name(f"{target.stem}_{name}.txt") for name in ("train", "val")}
    check_outputs([target, *lists.values()], (options.names, options.unseen), overwrite=options.overwrite)
    if target.suffix != ".py":
        raise UserError(f"{target}: the name of a config ends in .py")
    found = find_pairs(root, options.labels)
    (splits, told_by, count), values, names = find_splits(found), read_values(found), names_in(options.names)
    stored, ignored = np.flatnonzero(values.holding[:255]).tolist(), (255,) * bool(values.holding[255])
    if len(names) == len(stored) - 1 and stored[0] == 0:  # the background has no name
        stored, ignored = stored[1:], (0, *ignored)
    ends = f"images *{', *'.join(found.image_suffixes)}, label maps *{found.label_suffix}"
    print(f"{root}: {len(found.pairs):,} pairs, {ends}\n{describe(values, ignored)}")
    for end, number in found.others.items():
        print(f"not taken: {number:,} *{end}.png")
    if names and len(names) != len(stored):
        fix = f"name {', '.join(map(str, stored))} alone, or leave --names out and write names into the config"
        raise UserError(f"--names: {len(names)} for {len(stored)} pixel values: {fix}")
    if names and stored != [*range(stored[0], stored[0] + len(stored))]:
        print("warning: the pixel values have gaps: check that names and stored belong together")
    for name, (files, unlisted) in splits.items():
        if unlisted:
            write_whole(lists[name], "".join(f"{line}\n" for line in unlisted).encode())
            files.names = str(lists[name])
        print(f"{name}: {files.images}, {files.labels}{f', list {files.names}' if files.names else ''}")
    print(
        f"train and val by {told_by}" if told_by else "nothing says what is for training: every fifth pair is for val"
    )
    palette = () if values.palette is None else tuple(map(tuple, values.palette[stored].tolist()))
    names = names or tuple(f"? {value}" for value in stored)
    data = {"dataset": "custom", "title": target.stem, "setting": "inductive", "names": names}
    data |= {"unseen": names_in(options.unseen), "stored": tuple(stored), "ignored": ignored, "palette": palette}
    parts = {name: files for name, (files, _) in splits.items()}
    text = config_text(target.stem, {**data, "root": str(root)}, parts, count)
    write_whole(target, in_words(text).encode())
    print(in_words(f"written: {target}; after its DECIDE lines: python tools/check_dataset.py --config-file {target}"))


if __name__ == "__main__":
    run(main)
