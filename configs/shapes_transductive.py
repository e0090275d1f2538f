"""CLIP-RC on the built-in data set, transductive: goes on from an inductive run and names unseen pixels itself.

    python tools/run_net.py --config-file configs/shapes_transductive.py --task train \
        --weights work_dirs/shapes_inductive/weights.safetensors
    python tools/run_net.py --config-file configs/shapes_transductive.py --task val --resume

That a pixel is of some unseen class is taken from the ground truth, as in the published runs; which class it is, the
model guesses. Weights only are taken over: optimiser, iteration and warm-up start afresh.

Hardware: 2 CPU cores. Time: about 0.4 s an iteration (estimate). Expected numbers: none stated yet, a full run has not
been measured.
"""

base = "shapes_inductive.py"
data = dict(setting="transductive")
train = dict(iterations=1000, expected_weights="the weights of an inductive run (configs/shapes_inductive.py)")
