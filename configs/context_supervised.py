"""CLIP-RC on PASCAL Context (59 classes), fully supervised. The recipe is ours: CLIP-RC published none here.

    python tools/run_net.py --config-file configs/context_supervised.py --task train data.root=/path/to/VOC2010
    python tools/run_net.py --config-file configs/context_supervised.py --task val --resume data.root=/path/to/VOC2010

The split (A, or B by `data.split=B`) decides only how the classes are grouped in the results. Loss weights are those of
COCO-Stuff's fully supervised run.

Expected: nothing was published for 59 classes and either split, so no number is checked. Time and memory: not measured;
estimates with their basis are in docs/reproduce.md.
"""

base = "context_inductive.py"
data = dict(setting="supervised")
loss = dict(mask=100.0, dice=1.5, recovery=1.0)  # as configs/coco_stuff_supervised.py
train = dict(milestones=())
