"""CLIP-RC on the built-in data set, transductive: self-training from an inductive run.

    python tools/run_net.py --config-file configs/shapes_transductive.py --task train \
        --weights work_dirs/shapes_inductive/checkpoint_0001200.safetensors
    python tools/run_net.py --config-file configs/shapes_transductive.py --task val --resume

As in the published runs, this is the second half of the schedule, from the inductive run's half-way weights, with a new
optimiser, warm-up and learning rate. The ground truth marks the pixels that belong to some unseen class; the
model guesses which one.

Hardware: one core of an AMD EPYC (Zen 3), 0.5 GB. Training takes 9 minutes beside one other program (0.46 s per
step), 17 to 23 beside several; evaluation half a minute.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

base = "shapes_inductive.py"
data = dict(setting="transductive")
train = dict(
    iterations=1200,
    milestones=(),
    expected_iteration=1200,
    expected_weights="the half-way weights of an inductive run (configs/shapes_inductive.py)",
)
expected = {"pAcc": (84.9, 6.0), "mIoU(S)": (73.7, 6.0), "mIoU(U)": (70.8, 8.0), "hIoU": (72.2, 6.0)}
