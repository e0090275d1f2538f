"""The small CLIP alone on the built-in data set, no learning: the value path, read as the class token reads it.

    python tools/run_net.py --config-file configs/shapes_class_token.py --task val

jseg/engine/training_free.py has the method.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
test = dict(training_free="class_token")
