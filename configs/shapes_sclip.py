"""The small CLIP without training on the built-in data set: SCLIP (Wang et al., ECCV 2024).

    python tools/run_net.py --config-file configs/shapes_sclip.py --task val

The method: jseg/baselines.py.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-29;
they do not depend on a seed.
"""

base = "shapes_inductive.py"
test = dict(training_free="sclip")
expected = {"pAcc": (51.2, 1.0), "mIoU(S)": (32.9, 1.0), "mIoU(U)": (35.8, 1.0), "hIoU": (34.3, 1.0)}
