"""The end of every preparation: counts beside the published ones, and a manifest that says what was made.

The manifest is JSON beside the data: for each split the number of names, pictures and label maps, their bytes, and the
SHA-256 of the list (the names in order, one a line), so that two copies of a data set can be compared at a glance.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jseg
from jseg.data.published_counts import PUBLISHED, count_note
from jseg.files import write_json

_SHOWN = 20  # lines of problems on the screen


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split."""

    section: str  # train or val
    names: Sequence[str]
    images: Sequence[Path]
    labels: Sequence[Path]


def list_hash(names: Sequence[str]) -> str:
    """SHA-256 of the names in order, one a line."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def finish(
    root: Path, dataset: str, splits: Sequence[SplitFiles], problems: Sequence[str], partial: bool, tool: str
) -> int:
    """Counts the files of every split, prints them beside the published numbers and writes `manifest_<dataset>.json`.

    Args:
        problems: what went wrong before, one line each.
        partial: counts other than the published ones are meant.

    Returns:
        Exit code: 0 = all there, 1 = something is missing or went wrong.
    """
    problems, described = list(problems), {}
    for split in splits:
        described[split.section] = entry = _describe(dataset, split)
        print(
            f"{split.section}: {entry['names']:,} names (published: {entry['published']:,}), {entry['pictures']:,} "
            f"pictures, {entry['label_maps']:,} label maps, {entry['bytes'] / 2**20:,.1f} MiB"
        )
        for kind, files in (("picture", split.images), ("label map", split.labels)):
            missing = [path for path in files if not path.is_file()]
            if missing:
                problems.append(f"{split.section}: {len(missing)} of {len(files)} {kind}s missing, first {missing[0]}")
        note = count_note(dataset, split.section, len(split.names))
        if note and not partial:
            problems.append(f"{note} (--allow-partial if only a part is meant)")
        elif note:
            print(f"note: {note}")
    path = root / f"manifest_{dataset}.json"
    write_json(
        path, {"dataset": dataset, "tool": tool, "jseg": jseg.__version__, "splits": described, "problems": problems}
    )
    print(f"manifest: {path}")
    for problem in problems[:_SHOWN]:
        print(f"found: {problem}")
    if len(problems) > _SHOWN:
        print(f"and {len(problems) - _SHOWN} more, all named in the manifest")
    print("all there" if not problems else f"{len(problems)} problems: mend them and run the same command again")
    return 1 if problems else 0


def _describe(dataset: str, split: SplitFiles) -> dict:
    sizes = [[_size(path) for path in files] for files in (split.images, split.labels)]
    pictures, label_maps = ([size for size in found if size is not None] for found in sizes)
    return {
        "names": len(split.names),
        "published": PUBLISHED[dataset, split.section],
        "list_sha256": list_hash(split.names),
        "pictures": len(pictures),
        "picture_bytes": sum(pictures),
        "label_maps": len(label_maps),
        "label_map_bytes": sum(label_maps),
        "bytes": sum(pictures) + sum(label_maps),
    }


def _size(path: Path) -> int | None:
    """Bytes of a file; None when it is missing."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
