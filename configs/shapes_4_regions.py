"""Ablation on the built-in data set: 4 regions instead of 16.

    python tools/reproduce.py --suite shapes --rows shapes_4_regions

    python tools/run_net.py --config-file configs/shapes_4_regions.py --task train
    python tools/run_net.py --config-file configs/shapes_4_regions.py --task val --resume

Everything else as in shapes_short.py: compare with that row.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 4 minutes of training, half a minute of evaluation.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_short.py"
model = dict(region_grid=2)
expected = {"pAcc": (67.4, 6.0), "mIoU(S)": (52.6, 6.0), "mIoU(U)": (45.1, 8.0), "hIoU": (48.6, 6.0)}
