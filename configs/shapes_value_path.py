"""The small CLIP alone on the built-in data set, no learning: features of the value path (Zhou et al., ECCV 2022).

    python tools/run_net.py --config-file configs/shapes_value_path.py --task val

jseg/engine/training_free.py has the method.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
test = dict(training_free="value_path")
