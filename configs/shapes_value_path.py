"""The small CLIP without training on the built-in data set: the value path (Zhou et al., ECCV 2022).

    python tools/run_net.py --config-file configs/shapes_value_path.py --task val

The method: jseg/baselines.py.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-29;
they do not depend on a seed.
"""

base = "shapes_inductive.py"
test = dict(training_free="value_path")
expected = {"pAcc": (45.5, 1.0), "mIoU(S)": (28.1, 1.0), "mIoU(U)": (27.4, 1.0), "hIoU": (27.7, 1.0)}
