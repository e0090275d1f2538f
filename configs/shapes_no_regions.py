"""Ablation on the built-in data set: no regions. Queries are concat[G * T, T], pixels concat[G, I], as in ZegCLIP.

    python tools/reproduce.py --suite shapes --rows shapes_no_regions

    python tools/run_net.py --config-file configs/shapes_no_regions.py --task train
    python tools/run_net.py --config-file configs/shapes_no_regions.py --task val --resume

Everything else as in shapes_short.py, which it is to be compared with.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 3 minutes of training, half a minute of evaluation.
Expected numbers: seed 0 (2026-11-25), with a tolerance for other seeds and processors.
"""

base = "shapes_short.py"
model = dict(region_grid=0)
expected = {"pAcc": (62.6, 6.0), "mIoU(S)": (46.4, 6.0), "mIoU(U)": (42.3, 8.0), "hIoU": (44.3, 6.0)}
