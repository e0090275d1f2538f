r"""Chooses gamma without peeking: on seen classes that were held out of training, never on the unseen ones.

    python tools/run_net.py --config-file configs/voc12_inductive.py --task train --work-dir work_dirs/voc12_held_out \
        data.held_out="('boat', 'cat', 'dog', 'horse')"
    python tools/calibrate_gamma.py --config-file configs/voc12_inductive.py \
        --weights work_dirs/voc12_held_out/weights.safetensors

The weights must come from a run with `data.held_out`: a model that has learned a class tells nothing about unseen ones.
Pixels of the truly unseen classes are ignored in that run and here. Prints the metrics for every gamma from 0 to 0.5
and the choice beside the published 0.1, and writes them to <work-dir>/gamma.json.
"""

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
from dataclasses import replace
from pathlib import Path

from jseg.clip.class_embeddings import class_embeddings
from jseg.config import Config, read_config
from jseg.data.class_names import ClassList, classes_of
from jseg.data.dataset import open_dataset
from jseg.engine import checkpoint
from jseg.engine.load import load_model
from jseg.errors import UserError
from jseg.files import check_writable, write_json
from jseg.outputs import check_outputs
from jseg.weights import record
from jseg.weights.reader import WeightFile


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--config-file", required=True, help="config of the run with data.held_out")
    parser.add_argument("--weights", type=Path, required=True, help="weights of that run")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="images to use (default: train)")
    parser.add_argument("--images", type=int, default=1000, help="how many, evenly spread (default 1000; 0 = all)")
    parser.add_argument("--work-dir", type=Path, help="folder for gamma.json (default: that of the weights)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that jseg did not write")
    add_device_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    return parser.parse_intermixed_args(arguments)


def held_out_classes(config: Config, file: WeightFile) -> ClassList:
    """The class list of the run that the weights come from; `config.data.held_out` is set to what they record."""
    if config.data.setting != "inductive":
        raise UserError(f"data.setting={config.data.setting!r}: gamma has no effect there, it is for inductive runs")
    names = file.meta["config"]["data"].get("held_out") if record.is_jseg_file(file) else ()
    if not names:
        classes = classes_of(replace(config.data, held_out=()))  # suggested: a share like that of unseen classes
        example = tuple(classes.names[index] for index in classes.seen[1 :: len(classes.names) // len(classes.unseen)])
        raise UserError(
            f"{file.path} was not trained with held-out classes, so it cannot tell how to treat unseen ones: train "
            f'with, for example, data.held_out="{example}" and pass those weights'
        )
    config.data.held_out = config.data.held_out or tuple(names)
    classes = classes_of(config.data)
    checkpoint.check_classes(file, classes, other_classes=False)
    return classes


def main(arguments: list[str] | None = None) -> None:
    """Runs the tool."""
    options = parse_arguments(arguments)
    config = read_config(options.config_file, options.overrides)
    file = checkpoint.read_whole(options.weights)
    classes = held_out_classes(config, file)
    dataset = open_dataset(config.data, options.split)
    path = check_writable(options.work_dir or options.weights.parent) / "gamma.json"
    check_outputs([path], [options.weights], path.parent, options.overwrite)

    from jseg.runtime.start import start

    start(options.device)
    from jseg import calibration

    text = class_embeddings(config, classes, file)
    count = min(options.images or len(dataset), len(dataset))
    indices = [(2 * index + 1) * len(dataset) // (2 * count) for index in range(count)]  # evenly spread
    model, _ = load_model(config, file)
    results = calibration.sweep(model, dataset, indices, text.matrix, config)
    best = max(results, key=lambda result: result["hIoU"])  # of equal ones the smallest gamma
    print(f"{classes.title}, {count} images of {options.split}")
    print(calibration.results_table(results, best, classes))
    facts = {"chosen": best["gamma"], "published": calibration.PUBLISHED_GAMMA, "images": count, "split": options.split}
    facts["held_out"] = [classes.names[index] for index in classes.unseen]
    write_json(path, {**facts, "weights_sha256": file.sha256, "results": results})
    print(f"written: {path}")


if __name__ == "__main__":
    run(main)
