"""Pre-trains the small CLIP that ships with jseg, on captioned `shapes` scenes.

    python tools/pretrain_clip.py --output pretrained/shapes_clip.safetensors

Writes the weights (float16, both towers, vocabulary in the metadata) and, beside them, the byte-pair vocabulary as a
file; prints zero-shot accuracy. The same seed gives the same weights on the same
machine and number of threads. Results and time of the shipped file: pretrained/README.md.
"""

from jseg.runtime.command_line import ArgumentParser, add_device_options, command_line, run

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from jseg.errors import UserError
from jseg.files import check_writable
from jseg.outputs import check_outputs
from jseg.pretraining.images import Settings
from jseg.runtime.prepare import environment

VOCABULARY_NAME = "shapes_vocabulary.txt.gz"


def main() -> int:
    """Runs the tool."""
    parser, longest = ArgumentParser(__doc__), Settings().iterations
    parser.add_argument("--output", type=Path, required=True, help="weight file to write at the end (.safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and captions (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw ahead (default 1; 0 = none)")
    parser.add_argument(
        "--stop-after", type=int, metavar="N", default=longest, help="end after N steps of the unchanged schedule"
    )
    parser.add_argument("--scenes", type=int, default=1000, help="images to evaluate on (default 1000)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_device_options(parser)
    options = parser.parse_args()
    if not 1 <= options.stop_after <= longest:
        raise UserError(f"--stop-after {options.stop_after}: must be 1 to {longest}")
    if options.output.suffix != ".safetensors":
        raise UserError(f"--output {options.output}: the name must end in .safetensors")
    if options.scenes < 1:
        raise UserError(f"--scenes {options.scenes}: must be at least 1")
    vocabulary = options.output.parent / VOCABULARY_NAME
    check_outputs([options.output, vocabulary], overwrite=options.overwrite)
    check_writable(options.output.resolve().parent)
    settings = replace(Settings(), seed=options.seed, workers=options.workers)

    from jseg.runtime.start import start

    device = start(options.device)
    from jseg.clip.tokenizer import write_vocabulary
    from jseg.pretraining.images import OPTIMIZER, image_batches
    from jseg.pretraining.training import Pretraining, evaluate, export, train

    begin, pretraining = time.perf_counter(), Pretraining(settings)
    losses = train(pretraining, image_batches(settings, pretraining.tokenizer, options.stop_after), options.stop_after)
    hours = round((time.perf_counter() - begin) / 3600, 2)
    figures = evaluate(pretraining.clip, pretraining.tokenizer, options.scenes)
    print(json.dumps(figures, indent=2))
    facts = {
        "iteration": pretraining.iteration, "seed": settings.seed, "figures": figures, "command": command_line(),
        "environment": environment(device), "settings": asdict(settings) | {"optimizer": asdict(OPTIMIZER)},
        "losses": losses, "hours": hours,
    }  # fmt: skip
    export(options.output, pretraining.clip, pretraining.tokenizer, facts)
    write_vocabulary(vocabulary, pretraining.tokenizer.merges)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    run(main)
