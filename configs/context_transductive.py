r"""CLIP-RC on PASCAL Context (59 classes), transductive. The recipe is ours: CLIP-RC published none for this data set.

    python tools/run_net.py --config-file configs/context_transductive.py --task train data.root=/path/to/VOC2010 \
        --weights work_dirs/context_inductive/checkpoint_0020000.safetensors
    python tools/run_net.py --config-file configs/context_transductive.py --task val --resume data.root=/path/to/VOC2010

Split A by default, B with `data.split=B` (with the weights of an inductive run on B; others are refused). It trains for
half the iterations of the inductive run, from its half-way weights, as on the other data sets. The ground truth marks
the pixels that belong to some unseen class.

Expected: nothing was published for 59 classes and either split, so no number is checked.

Time and memory (estimates, not measured): 6 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 11
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "context_inductive.py"
data = dict(setting="transductive")
train = dict(
    iterations=20000,
    milestones=(),
    expected_weights="the checkpoint of configs/context_inductive.py after iteration 20000 (checkpoint_0020000)",
    expected_iteration=20000,
)
