"""Checks the data set of a configuration on disk, file by file, before hours are spent on it.

    python tools/check_dataset.py --config-file configs/voc12_inductive.py data.root=/data/VOC2012
    python tools/check_dataset.py --config-file configs/voc12_inductive.py --fraction 0.1

Says for train and val: pairs beside the published number, sizes, kinds of label PNGs, how often each class occurs,
which classes never do and whether the unseen ones are there. Finds missing, damaged and wrongly encoded files, label
values that are not of the class list (and what they are: jseg/data/label_faults.py), pictures in both train and val.
Exit code 1 when something is found, 2 when the check cannot run. `--report FILE` names all files, in JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from jseg.config import Config, read_config
from jseg.data.check import Finding, SplitReport, check_split, duplicates
from jseg.data.class_names import class_list
from jseg.data.dataset import SegmentationDataset
from jseg.data.published_counts import PUBLISHED
from jseg.errors import UserError
from jseg.files import write_json
from jseg.runtime.command_line import ArgumentParser, run

SHOWN = 20  # files per finding on the screen


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options.

    Raises:
        UserError: unknown option or a value out of range.
    """
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", type=Path, required=True, help="configuration whose data set is checked")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the pairs that is read as a whole")
    parser.add_argument("--allow-partial", action="store_true", help="other counts than the published ones are fine")
    parser.add_argument("--report", type=Path, help="write what was found, with all file names, to this JSON file")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1), help="files read at a time")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the configuration")
    options = parser.parse_intermixed_args(arguments)
    if not 0 < options.fraction <= 1:
        raise UserError(f"--fraction {options.fraction}: must be above 0 and at most 1")
    if options.threads < 1:
        raise UserError(f"--threads {options.threads}: must be at least 1")
    return options


def open_splits(config: Config) -> list[SegmentationDataset]:
    """The splits that a configuration uses, files not looked at yet; a cross-data-set one trains on another data set.

    Raises:
        UserError: no split at all, or what opening a split raises.
    """
    splits, data = [], config.data
    for section in ("val",) if config.cross_dataset else ("train", "val"):
        files = getattr(data, section)
        if files.images:
            splits.append(SegmentationDataset(data, section if files.labels else "test", check_files=False))
    if not splits:
        raise UserError("data.train.images and data.val.images are not set: the configuration names no files to check")
    return splits


def summary(report: SplitReport) -> str:
    """What a split holds, in a few lines."""
    classes, tally = report.class_list, report.tally
    published = PUBLISHED.get((classes.dataset, report.section))
    beside = f" (published: {published:,})" if published else ""
    lines = [f"{report.section}: {report.length:,} pairs{beside}, {report.read:,} of them read"]
    if tally.sizes:
        smallest, largest = (f"{width}x{height}" for height, width in tally.sizes)
        lines.append(f"  pictures from {smallest} to {largest} pixels")
    names = {"P": "palette", "L": "grey"}
    kinds = ", ".join(f"{count:,} {names.get(mode, mode)}" for mode, count in tally.modes.items())
    lines.append(f"  label PNGs: {kinds or 'none'}")
    if tally.counts.total:
        present = [classes.names[index] for index in classes.unseen if tally.counts.maps[classes.stored[index]]]
        lines.append(
            f"  unseen classes present: {len(present)} of {len(classes.unseen)}"
            + (f" ({', '.join(present)})" if present else "")
        )
    return "\n".join(lines)


def value_table(reports: list[SplitReport]) -> str:
    """How often each stored value occurs: share of the pixels in percent, and label maps, for each split."""
    classes = reports[0].class_list
    rows = [(value, "(no class)") for value in classes.stored_ignored]
    for index, value in enumerate(classes.stored):
        rows.append((value, classes.names[index] + (" (unseen)" if index in classes.unseen else "")))
    known = {value for value, _ in rows}
    occurring = {value for report in reports for value in report.tally.counts.values}
    rows += [(value, "NOT IN THE CLASS LIST") for value in occurring - known]
    width = max(len(name) for _, name in rows)
    lines = [
        "value  " + "class".ljust(width) + "".join(f"  {report.section + ' %':>8}  {'maps':>7}" for report in reports)
    ]
    for value, name in sorted(rows):
        line = f"{value:>5}  {name:<{width}}"
        for report in reports:
            counts = report.tally.counts
            share = 100 * counts.pixels[value] / max(counts.pixels.sum(), 1)
            line += f"  {share:>8.3f}  {counts.maps[value]:>7,}"
        lines.append(line)
    return "\n".join(lines)


def print_finding(finding: Finding) -> None:
    """Prints a finding with its first files."""
    print(f"found: {finding.text}")
    for file in finding.files[:SHOWN]:
        print(f"  {file}")
    if len(finding.files) > SHOWN:
        print(f"  and {len(finding.files) - SHOWN} more (--report FILE names all)")


def write_report(path: Path, reports: list[SplitReport], findings: list[Finding]) -> None:
    """Writes counts and findings as JSON."""
    splits = {
        report.section: {
            "pairs": report.length,
            "read": report.read,
            "label_modes": dict(report.tally.modes),
            "pixels": {str(value): int(report.tally.counts.pixels[value]) for value in report.tally.counts.values},
            "label_maps": {str(value): int(report.tally.counts.maps[value]) for value in report.tally.counts.values},
            "notes": report.notes,
        }
        for report in reports
    }
    title = reports[0].class_list.title
    found = [{"text": finding.text, "files": finding.files} for finding in findings]
    write_json(path, {"dataset": title, "splits": splits, "findings": found})


def main(arguments: list[str] | None = None) -> int:
    """Checks; returns 1 when something was found."""
    options = parse_arguments(arguments)
    config = read_config(options.config_file, options.overrides)
    data = config.data
    if data.dataset == "shapes":
        print("shapes is drawn by the code itself: there are no files to check")
        return 0
    splits, progress = open_splits(config), sys.stderr.isatty()
    print(f"{class_list(data.dataset, data.split).title}: {data.root}")
    reports = [
        check_split(split, options.fraction, options.allow_partial, options.threads, progress) for split in splits
    ]
    findings = [finding for report in reports for finding in report.findings]
    if len(splits) == 2:
        findings += duplicates(*splits, progress)
    for report in reports:
        print(summary(report))
    print(value_table(reports))
    for report in reports:
        for note in report.notes:
            print(f"note: {note}")
    for finding in findings:
        print_finding(finding)
    if options.report is not None:
        write_report(options.report, reports, findings)
    print("nothing wrong was found" if not findings else f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    run(main)
