r"""CLIP-RC on COCO-Stuff 164k, transductive: self-training from the half-way weights of the inductive run.

    python tools/run_net.py --config-file configs/coco_stuff_transductive.py --task train \
        --weights work_dirs/coco_stuff_inductive/checkpoint_0040000.safetensors data.root=/path/to/coco_stuff164k
    python tools/run_net.py --config-file configs/coco_stuff_transductive.py --task val --resume \
        data.root=/path/to/coco_stuff164k

Only the weights are loaded: optimiser, iteration and warm-up start anew. The starting point of 40,000 iterations is
inferred from the sibling project ZegCLIP. The ground truth marks the pixels that belong to some unseen class, as in
the published runs.

Expected: the published numbers, below.

Time and memory (estimates, not measured): 17 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 15
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "coco_stuff_inductive.py"
data = dict(setting="transductive")
train = dict(
    iterations=40000,
    eval_every=4000,
    milestones=(),
    expected_weights="the checkpoint of configs/coco_stuff_inductive.py after iteration 40000 (checkpoint_0040000)",
    expected_iteration=40000,
)
expected = {"pAcc": [69.9, 1.0], "mIoU(S)": [42.0, 0.7], "mIoU(U)": [60.8, 2.0], "hIoU": [49.7, 1.5]}
