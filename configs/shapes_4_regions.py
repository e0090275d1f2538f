"""Ablation on the built-in data set: 4 regions instead of 16.

    python tools/reproduce.py --suite shapes --rows shapes_4_regions

    python tools/run_net.py --config-file configs/shapes_4_regions.py --task train
    python tools/run_net.py --config-file configs/shapes_4_regions.py --task val --resume

Everything else as in shapes_inductive.py.

Hardware: one core of a busy AMD EPYC (Zen 4). Time: about 5 minutes. Expected numbers: those of shapes_inductive.py;
this row has not been measured.
"""

base = "shapes_inductive.py"
model = dict(region_grid=2)
