"""CLIP-RC on the built-in data set, fully supervised: all 20 classes are seen in training. The upper bound.

    python tools/run_net.py --config-file configs/shapes_supervised.py --task train
    python tools/run_net.py --config-file configs/shapes_supervised.py --task val --resume

mIoU(U) is the mean over the five classes that are unseen in the other settings. No recovery loss, as in the published
VOC run.

Hardware: one core of an AMD EPYC (Zen 3), 0.5 GB. Training takes 16 minutes beside one other program (0.39 s per
step), 35 beside several; evaluation half a minute.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_inductive.py"
data = dict(setting="supervised")
loss = dict(recovery=0.0)
train = dict(milestones=())
expected = {"pAcc": (85.7, 6.0), "mIoU(S)": (74.4, 6.0), "mIoU(U)": (73.5, 8.0), "hIoU": (73.9, 6.0)}
