"""The small CLIP alone on the built-in data set, no learning: its patch features compared with the class names.

    python tools/run_net.py --config-file configs/shapes_patch_features.py --task val

jseg/baselines.py has the method.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-25;
nothing in them is random.
"""

base = "shapes_inductive.py"
test = dict(training_free="patch_features")
expected = {"pAcc": (22.3, 1.0), "mIoU(S)": (9.4, 1.0), "mIoU(U)": (15.0, 1.0), "hIoU": (11.5, 1.0)}
