"""CLIP-RC on the built-in data set, transductive: goes on from an inductive run and names unseen pixels itself.

    python tools/run_net.py --config-file configs/shapes_transductive.py --task train \
        --weights work_dirs/shapes_inductive/checkpoint_0000300.safetensors
    python tools/run_net.py --config-file configs/shapes_transductive.py --task val --resume

As in the published runs it is the second half of the schedule, from the inductive run's half-way weights, with
optimiser, warm-up and learning rate afresh. That a pixel is of some unseen class is taken from the ground truth; which
class it is, the model guesses.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
data = dict(setting="transductive")
train = dict(
    iterations=300,
    milestones=(),
    expected_iteration=300,
    expected_weights="the half-way weights of an inductive run (configs/shapes_inductive.py)",
)
