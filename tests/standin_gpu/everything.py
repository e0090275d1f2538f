"""Has Jittor compile for CUDA all that training and evaluation run; to be run on the stand-in GPU.

    python -m tests.standin_gpu.run tests/standin_gpu/everything.py [PART…]

A part is `evaluation` or `SETTING:PRECISION`, such as `inductive:bf16`; all of them by default. Prints a line for each.
"""

from __future__ import annotations

import sys

from jseg.runtime.start import start

SETTINGS = ("inductive", "transductive", "supervised")
PARTS = ["evaluation", *(f"{setting}:{precision}" for precision in ("fp32", "bf16", "fp16") for setting in SETTINGS)]


def main() -> None:
    """Compiles the parts that the command names."""
    print("device", start("cuda"), flush=True)
    from tests.standin_gpu import hot_path

    for part in sys.argv[1:] or PARTS:
        if part == "evaluation":
            hot_path.evaluate()
        else:
            hot_path.train(*part.split(":"))
        print("compiled", part, flush=True)


if __name__ == "__main__":
    main()
