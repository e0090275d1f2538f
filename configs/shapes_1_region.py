"""Ablation on the built-in data set: 1 region, the whole image, instead of 16.

    python tools/reproduce.py --suite shapes --rows shapes_1_region

    python tools/run_net.py --config-file configs/shapes_1_region.py --task train
    python tools/run_net.py --config-file configs/shapes_1_region.py --task val --resume

Everything else as in shapes_short.py: compare with that row.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 3 minutes of training, half a minute of evaluation.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_short.py"
model = dict(region_grid=1)
expected = {"pAcc": (64.8, 6.0), "mIoU(S)": (49.5, 6.0), "mIoU(U)": (43.0, 8.0), "hIoU": (46.0, 6.0)}
