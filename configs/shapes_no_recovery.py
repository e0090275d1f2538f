"""Ablation on the built-in data set: no recovery loss.

    python tools/reproduce.py --suite shapes --rows shapes_no_recovery

    python tools/run_net.py --config-file configs/shapes_no_recovery.py --task train
    python tools/run_net.py --config-file configs/shapes_no_recovery.py --task val --resume

Everything else as in shapes_short.py: compare with that row.

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 4 minutes of training, half a minute of evaluation.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_short.py"
loss = dict(recovery=0.0)
expected = {"pAcc": (68.2, 6.0), "mIoU(S)": (53.7, 6.0), "mIoU(U)": (45.4, 8.0), "hIoU": (49.2, 6.0)}
