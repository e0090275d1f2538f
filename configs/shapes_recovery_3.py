"""Ablation on the built-in data set: a recovery decoder of 3 layers, like the decoder, instead of 1.

    python tools/reproduce.py --suite shapes --rows shapes_recovery_3

    python tools/run_net.py --config-file configs/shapes_recovery_3.py --task train
    python tools/run_net.py --config-file configs/shapes_recovery_3.py --task val --resume

The paper calls the recovery decoder identical to the decoder; the released code has 1 layer where the decoder has 3.
Everything else as in shapes_inductive.py.

Hardware: one core of a busy AMD EPYC (Zen 4). Time: about 5 minutes. Expected numbers: those of shapes_inductive.py;
this row has not been measured.
"""

base = "shapes_inductive.py"
model = dict(recovery_layers=3)
