"""Ablation on the built-in data set: neither regions nor recovery loss, the baseline like ZegCLIP.

    python tools/reproduce.py --suite shapes --rows shapes_neither

    python tools/run_net.py --config-file configs/shapes_neither.py --task train
    python tools/run_net.py --config-file configs/shapes_neither.py --task val --resume

The descriptors are ZegCLIP's (Zhou et al., CVPR 2023); the decoder is CLIP-RC's, which updates both sides.
Everything else as in shapes_short.py: compare with that row.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 3 minutes of training, half a minute of evaluation.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_short.py"
model = dict(region_grid=0)
loss = dict(recovery=0.0)
expected = {"pAcc": (64.2, 6.0), "mIoU(S)": (48.7, 6.0), "mIoU(U)": (42.3, 8.0), "hIoU": (45.3, 6.0)}
