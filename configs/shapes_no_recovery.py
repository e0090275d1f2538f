"""Ablation on the built-in data set: no recovery loss.

    python tools/reproduce.py --suite shapes --rows shapes_no_recovery

    python tools/run_net.py --config-file configs/shapes_no_recovery.py --task train
    python tools/run_net.py --config-file configs/shapes_no_recovery.py --task val --resume

Everything else as in shapes_inductive.py.

Hardware: 2 CPU cores (AMD EPYC, Zen 4). Time: see docs/shapes.md. Expected numbers: none stated yet.
"""

base = "shapes_inductive.py"
loss = dict(recovery=0.0)
