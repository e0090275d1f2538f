"""CLIP-RC on the built-in data set, fully supervised: all 20 classes are seen in training. The upper bound.

    python tools/run_net.py --config-file configs/shapes_supervised.py --task train
    python tools/run_net.py --config-file configs/shapes_supervised.py --task val --resume

mIoU(U) is that of the five classes that the other settings hide. No recovery loss, as in the published VOC run.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
data = dict(setting="supervised")
loss = dict(recovery=0.0)
train = dict(milestones=())
