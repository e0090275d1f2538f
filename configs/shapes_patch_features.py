"""The small CLIP without training on the built-in data set: patch features compared with class names.

    python tools/run_net.py --config-file configs/shapes_patch_features.py --task val

The method: jseg/baselines.py.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-29;
they do not depend on a seed.
"""

base = "shapes_inductive.py"
test = dict(training_free="patch_features")
expected = {"pAcc": (22.3, 1.0), "mIoU(S)": (9.4, 1.0), "mIoU(U)": (15.1, 1.0), "hIoU": (11.6, 1.0)}
