"""Ablation on the built-in data set: a recovery decoder of 3 layers, like the decoder, instead of 1.

    python tools/reproduce.py --suite shapes --rows shapes_recovery_3

    python tools/run_net.py --config-file configs/shapes_recovery_3.py --task train
    python tools/run_net.py --config-file configs/shapes_recovery_3.py --task val --resume

The paper calls the recovery decoder identical to the decoder; the released code has 1 layer where the decoder has 3.
Everything else as in shapes_short.py, which it is to be compared with.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 6 minutes of training, half a minute of evaluation.
Expected numbers: seed 0 (2026-11-25), with a tolerance for other seeds and processors.
"""

base = "shapes_short.py"
model = dict(recovery_layers=3)
expected = {"pAcc": (66.6, 6.0), "mIoU(S)": (51.4, 6.0), "mIoU(U)": (44.7, 8.0), "hIoU": (47.8, 6.0)}
