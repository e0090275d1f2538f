"""The small CLIP alone on the built-in data set, no learning: the value path, read as the class token reads it.

    python tools/run_net.py --config-file configs/shapes_class_token.py --task val

jseg/baselines.py has the method.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-25;
nothing in them is random.
"""

base = "shapes_inductive.py"
test = dict(training_free="class_token")
expected = {"pAcc": (57.3, 1.0), "mIoU(S)": (40.5, 1.0), "mIoU(U)": (36.8, 1.0), "hIoU": (38.6, 1.0)}
