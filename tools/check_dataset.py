"""Checks the data set of a configuration on disk, file by file, before hours are spent on it.

    python tools/check_dataset.py --config-file configs/voc12_inductive.py data.root=/data/VOC2012
    python tools/check_dataset.py --config-file configs/voc12_inductive.py --fraction 0.1

Says for train and val how often each class occurs. Finds missing, damaged and RGB-encoded files, label maps of another
size than their image, label values that are not of the class list, labels shifted by one, other numbers of pairs than
the published ones. Exit code 1 when something is found, 2 when the check cannot run.
"""

from jseg.runtime.command_line import ArgumentParser, run

import sys
from pathlib import Path

from jseg.config import read_config
from jseg.data.class_names import OWN, classes_of
from jseg.data.dataset import SegmentationDataset, SplitReport, check_split
from jseg.errors import UserError, listed

SHOWN = 30  # problems of a split
# Images of train and val in the published runs (CLIP-RC, section 4.1); VOC's 10,582 are train.txt and aug.txt together.
PUBLISHED_IMAGES = {"voc12": (10_582, 1_449), "coco_stuff": (118_287, 5_000), "context": (4_998, 5_105),
                    "ade20k": (20_210, 2_000)}  # fmt: skip


def class_table(reports: list[SplitReport]) -> str:
    """How often each class occurs in each split: share of the pixels in percent, number of label maps."""
    classes = reports[0].dataset.class_list
    sections = "".join(f"  {report.dataset.section + ' %':>8}  {'maps':>7}" for report in reports)
    lines = [f"value  {'class':<30}{sections}"]
    for index, value in enumerate(classes.stored):
        name = classes.names[index] + (" (unseen)" if index in classes.unseen else "")
        shares = "".join(
            f"  {100 * report.pixels[value] / max(report.pixels.sum(), 1):>8.3f}  {report.maps[value]:>7,}"
            for report in reports
        )
        lines.append(f"{value:>5}  {name:<30}{shares}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Checks; returns 1 when something was found."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--config-file", type=Path, required=True, help="configuration whose data set is checked")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the pairs that is read as a whole")
    parser.add_argument("--allow-partial", action="store_true", help="other counts than the published ones are fine")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the configuration")
    options = parser.parse_intermixed_args(arguments)
    if not 0 < options.fraction <= 1:
        raise UserError(f"--fraction {options.fraction}: must be above 0 and at most 1")
    config = read_config(options.config_file, options.overrides)
    data, reports = config.data, []
    if data.dataset in ("shapes", "shapes_open"):
        print("shapes is drawn by the code itself: there are no files to check")
        return 0
    print(f"{classes_of(data).title}: {data.root}")
    for section in ("val",) if config.cross_dataset else ("train", "val"):
        split = SegmentationDataset(data, section if getattr(data, section).labels else "test", check_files=False)
        report = check_split(split, options.fraction, sys.stderr.isatty())
        print(f"{section}: {len(split):,} pairs, {report.read:,} of them read")
        published = PUBLISHED_IMAGES.get(data.dataset, (len(split),) * 2)[section == "val"]
        if len(split) != published and not options.allow_partial:
            text = f"{data.dataset} {section} has {len(split):,} images, the published runs {published:,}"
            report.problems.append(f"{text} (--allow-partial if only a part is meant)")
        reports.append(report)
    classes, maps = reports[0].dataset.class_list, sum(report.maps for report in reports)
    absent = [name for name, value in zip(classes.names, classes.stored, strict=True) if not maps[value]]
    if data.dataset == OWN and absent and options.fraction == 1:
        reports[0].problems.append(f"no label map holds {listed(absent)}: correct data.names and data.stored")
    print(class_table(reports))
    for report in reports:
        for problem in report.problems[:SHOWN]:
            print(f"found: {report.dataset.section}: {problem}")
        if len(report.problems) > SHOWN:
            print(f"and {len(report.problems) - SHOWN} more in {report.dataset.section}")
    count = sum(len(report.problems) for report in reports)
    print(f"{count} problems" if count else "nothing wrong was found")
    return 1 if count else 0


if __name__ == "__main__":
    run(main)
