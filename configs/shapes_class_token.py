"""The small CLIP without training on the built-in data set: the value path, read by the class token.

    python tools/run_net.py --config-file configs/shapes_class_token.py --task val

The method: jseg/baselines.py.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-25;
they do not depend on a seed.
"""

base = "shapes_inductive.py"
test = dict(training_free="class_token")
expected = {"pAcc": (57.3, 1.0), "mIoU(S)": (40.5, 1.0), "mIoU(U)": (36.8, 1.0), "hIoU": (38.6, 1.0)}
