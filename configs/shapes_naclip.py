"""The small CLIP without training on the built-in data set: NACLIP (Hajimiri et al., WACV 2025).

    python tools/run_net.py --config-file configs/shapes_naclip.py --task val

The method: jseg/baselines.py.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute. Expected numbers: measured 2026-11-29;
they do not depend on a seed.
"""

base = "shapes_inductive.py"
test = dict(training_free="naclip")
expected = {"pAcc": (47.0, 1.0), "mIoU(S)": (31.5, 1.0), "mIoU(U)": (29.6, 1.0), "hIoU": (30.5, 1.0)}
