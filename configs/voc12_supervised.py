"""CLIP-RC on PASCAL VOC 2012, fully supervised: all 20 classes are seen in training. The upper bound of the paper.

    python tools/run_net.py --config-file configs/voc12_supervised.py --task train data.root=/path/to/VOC2012
    python tools/run_net.py --config-file configs/voc12_supervised.py --task val --resume data.root=/path/to/VOC2012

mIoU(U) is the mean over the five classes that are unseen in the other settings. There is no recovery loss; the recovery
decoder still exists, and its weights decay.

Expected: the published numbers, below.

Time and memory (estimates, not measured): 10 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 9
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "voc12_inductive.py"
data = dict(setting="supervised")
loss = dict(recovery=0.0)
train = dict(milestones=())
expected = {"pAcc": [97.1, 0.5], "mIoU(S)": [94.1, 1.0], "mIoU(U)": [93.4, 1.0], "hIoU": [93.7, 1.0]}
