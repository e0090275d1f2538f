"""Ablation on the built-in data set: neither regions nor recovery loss, the baseline like ZegCLIP.

    python tools/reproduce.py --suite shapes --rows shapes_neither

    python tools/run_net.py --config-file configs/shapes_neither.py --task train
    python tools/run_net.py --config-file configs/shapes_neither.py --task val --resume

The descriptors are ZegCLIP's (Zhou et al., CVPR 2023); the decoder stays CLIP-RC's, in which both sides are updated.
Everything else as in shapes_inductive.py.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
model = dict(region_grid=0)
loss = dict(recovery=0.0)
