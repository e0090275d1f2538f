"""A first run: CLIP-RC from the small CLIP of this repository, on drawn scenes. Nothing is downloaded.

    make demo

    python tools/run_net.py --config-file configs/shapes_demo.py --task train
    python tools/run_net.py --config-file configs/shapes_demo.py --task val --resume
    python tools/run_net.py --config-file configs/shapes_demo.py --task test --resume

A short version of shapes_inductive.py: 15 classes are trained with masks, the other 5 are known only by name.

Hardware: one core of a busy AMD EPYC (Zen 3), kernels compiled: training 2 min 15 s, all three commands 2 min 40 s.
With an empty cache on a 2-core one, `make demo` takes 6 minutes in all (docs/runtime.md). Expected numbers: seed 0
(2026-11-26); the tolerance allows for other processors, which sum in another order.
"""

base = "shapes_inductive.py"
data = dict(shapes=dict(val_scenes=100))
train = dict(iterations=300, log_every=20, eval_every=150, milestones=())
expected = {"pAcc": (60.6, 8.0), "mIoU(S)": (44.2, 8.0), "mIoU(U)": (40.6, 10.0), "hIoU": (42.3, 8.0)}
