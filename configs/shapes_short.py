"""CLIP-RC on the built-in data set, inductive, with a quarter of the steps: the reference of the ablations.

    python tools/reproduce.py --suite shapes --rows shapes_short

    python tools/run_net.py --config-file configs/shapes_short.py --task train
    python tools/run_net.py --config-file configs/shapes_short.py --task val --resume

Hardware: one core of a busy AMD EPYC (Zen 3), 0.5 GB. Time: 5 minutes of training, half a minute of evaluation.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_inductive.py"
train = dict(iterations=600, eval_every=300, milestones=())
expected = {"pAcc": (67.9, 6.0), "mIoU(S)": (53.5, 6.0), "mIoU(U)": (45.1, 8.0), "hIoU": (48.9, 6.0)}
