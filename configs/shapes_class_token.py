"""The small CLIP without training on the built-in data set: the value path, read by the class token.

    python tools/run_net.py --config-file configs/shapes_class_token.py --task val

The method: jseg/baselines.py.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-29;
they do not depend on a seed.
"""

base = "shapes_inductive.py"
test = dict(training_free="class_token")
expected = {"pAcc": (58.4, 1.0), "mIoU(S)": (42.0, 1.0), "mIoU(U)": (37.4, 1.0), "hIoU": (39.6, 1.0)}
