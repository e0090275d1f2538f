"""Ablation on the built-in data set: a recovery decoder of 3 layers, like the decoder, instead of 1.

    python tools/reproduce.py --suite shapes --rows shapes_recovery_3

    python tools/run_net.py --config-file configs/shapes_recovery_3.py --task train
    python tools/run_net.py --config-file configs/shapes_recovery_3.py --task val --resume

The paper calls the recovery decoder identical to the decoder; the released code has 1 layer where the decoder has 3.
Everything else as in shapes_short.py: compare with that row.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 6 minutes of training, half a minute of evaluation.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_short.py"
model = dict(recovery_layers=3)
expected = {"pAcc": (68.2, 6.0), "mIoU(S)": (53.8, 6.0), "mIoU(U)": (45.5, 8.0), "hIoU": (49.3, 6.0)}
