"""Ablation on the built-in data set: 1 region, the whole picture, instead of 16.

    python tools/reproduce.py --suite shapes --rows shapes_1_region

    python tools/run_net.py --config-file configs/shapes_1_region.py --task train
    python tools/run_net.py --config-file configs/shapes_1_region.py --task val --resume

Everything else as in shapes_inductive.py.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
model = dict(region_grid=1)
