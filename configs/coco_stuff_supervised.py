"""CLIP-RC on COCO-Stuff 164k, fully supervised: all 171 classes are seen in training. The upper bound of the paper.

    python tools/run_net.py --config-file configs/coco_stuff_supervised.py --task train \\
        data.root=/path/to/coco_stuff164k
    python tools/run_net.py --config-file configs/coco_stuff_supervised.py --task val --resume \\
        data.root=/path/to/coco_stuff164k

Expected: the published numbers, below. Time and memory: not measured; estimates with their basis are in
docs/reproduce.md.
"""

base = "coco_stuff_inductive.py"
data = dict(setting="supervised")
loss = dict(mask=100.0, dice=1.5, recovery=1.0)  # the published weights of this run
train = dict(milestones=())
expected = {"pAcc": [70.8, 0.7], "mIoU(S)": [42.9, 0.7], "mIoU(U)": [64.1, 1.0], "hIoU": [51.4, 0.8]}
