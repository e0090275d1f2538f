"""Ablation on the built-in data set: 4 regions instead of 16.

    python tools/reproduce.py --suite shapes --rows shapes_4_regions

    python tools/run_net.py --config-file configs/shapes_4_regions.py --task train
    python tools/run_net.py --config-file configs/shapes_4_regions.py --task val --resume

Everything else as in shapes_short.py, which it is to be compared with.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 4 minutes of training, half a minute of evaluation.
Expected numbers: seed 0 (2026-11-25), with a tolerance for other seeds and processors.
"""

base = "shapes_short.py"
model = dict(region_grid=2)
expected = {"pAcc": (66.2, 6.0), "mIoU(S)": (50.8, 6.0), "mIoU(U)": (44.2, 8.0), "hIoU": (47.3, 6.0)}
