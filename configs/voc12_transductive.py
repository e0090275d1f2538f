r"""CLIP-RC on PASCAL VOC 2012, transductive: self-training from the half-way weights of the inductive run.

    python tools/run_net.py --config-file configs/voc12_transductive.py --task train data.root=/path/to/VOC2012 \
        --weights work_dirs/voc12_inductive/checkpoint_0020000.safetensors
    python tools/run_net.py --config-file configs/voc12_transductive.py --task val --resume data.root=/path/to/VOC2012

Only the weights are loaded: optimiser, iteration and warm-up start anew. The ground truth marks the pixels that belong
to some unseen class, as in the published runs; the model guesses which one. A batch smaller than 16 is known to ruin
self-training: keep `train.batch_size` and lower `train.micro_batch`.

Expected: the published numbers, below.

Time and memory (estimates, not measured): 5 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 9
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "voc12_inductive.py"
data = dict(setting="transductive")
train = dict(
    iterations=20000,
    eval_every=2000,
    milestones=(),
    expected_weights="the checkpoint of configs/voc12_inductive.py after iteration 20000 (checkpoint_0020000)",
    expected_iteration=20000,
)
expected = {"pAcc": [97.0, 1.0], "mIoU(S)": [93.9, 1.0], "mIoU(U)": [92.2, 2.0], "hIoU": [93.0, 1.5]}
