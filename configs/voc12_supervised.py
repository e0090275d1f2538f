"""CLIP-RC on PASCAL VOC 2012, fully supervised: all 20 classes are seen in training. The upper bound of the paper.

    python tools/run_net.py --config-file configs/voc12_supervised.py --task train data.root=/path/to/VOC2012
    python tools/run_net.py --config-file configs/voc12_supervised.py --task val --resume data.root=/path/to/VOC2012

mIoU(U) is that of the five classes that the other settings hide. No recovery loss; its decoder is there all the same
and decays.

Expected: the published numbers, below. Time and memory: not measured; estimates with their basis are in
docs/reproduce.md.
"""

base = "voc12_inductive.py"
data = dict(setting="supervised")
loss = dict(recovery=0.0)
train = dict(milestones=())
expected = {"pAcc": [97.1, 0.5], "mIoU(S)": [94.1, 1.0], "mIoU(U)": [93.4, 1.0], "hIoU": [93.7, 1.0]}
