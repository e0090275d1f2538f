"""A first run on a bare machine: CLIP-RC from the small CLIP that ships, on drawn scenes. Nothing is downloaded.

    make demo

    python tools/run_net.py --config-file configs/shapes_demo.py --task train
    python tools/run_net.py --config-file configs/shapes_demo.py --task val --resume
    python tools/run_net.py --config-file configs/shapes_demo.py --task test --resume

A short version of shapes_inductive.py: 15 classes are trained with masks, the other 5 are segmented by their names.

Hardware: 2 CPU cores. Time: 0.3 to 0.6 s an iteration as seen, 3 to 6 minutes (estimate). Expected numbers: measured
with seed 0 on an AMD EPYC (2026-11-22); the tolerance allows for other processors, which add up in another order.
"""

base = "shapes_inductive.py"
data = dict(shapes=dict(val_scenes=100))
train = dict(iterations=600, log_every=20, save_every=300)
expected = {"pAcc": (65.1, 8.0), "mIoU(S)": (51.2, 8.0), "mIoU(U)": (44.6, 10.0), "hIoU": (47.7, 8.0)}
