"""CLIP-RC on PASCAL Context (59 classes), fully supervised. The recipe is ours: CLIP-RC published none here.

    python tools/run_net.py --config-file configs/context_supervised.py --task train data.root=/path/to/VOC2010
    python tools/run_net.py --config-file configs/context_supervised.py --task val --resume data.root=/path/to/VOC2010

The split (A, or B with `data.split=B`) only changes how the results group the classes. The loss weights are those of
COCO-Stuff's fully supervised run.

Expected: nothing was published for 59 classes and either split, so no number is checked.

Time and memory (estimates, not measured): 12 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 11
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "context_inductive.py"
data = dict(setting="supervised")
loss = dict(mask=100.0, dice=1.5, recovery=1.0)  # as configs/coco_stuff_supervised.py
train = dict(milestones=())
