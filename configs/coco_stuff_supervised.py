r"""CLIP-RC on COCO-Stuff 164k, fully supervised: all 171 classes are seen in training. The upper bound of the paper.

    python tools/run_net.py --config-file configs/coco_stuff_supervised.py --task train \
        data.root=/path/to/coco_stuff164k
    python tools/run_net.py --config-file configs/coco_stuff_supervised.py --task val --resume \
        data.root=/path/to/coco_stuff164k

Expected: the published numbers, below.

Time and memory (estimates, not measured): 33 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 15
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "coco_stuff_inductive.py"
data = dict(setting="supervised")
loss = dict(mask=100.0, dice=1.5, recovery=1.0)  # the published weights of this run
train = dict(milestones=())
expected = {"pAcc": [70.8, 0.7], "mIoU(S)": [42.9, 0.7], "mIoU(U)": [64.1, 1.0], "hIoU": [51.4, 0.8]}
