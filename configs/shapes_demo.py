"""A first run on a bare machine: CLIP-RC from the small CLIP that ships, on drawn scenes. Nothing is downloaded.

    make demo

    python tools/run_net.py --config-file configs/shapes_demo.py --task train
    python tools/run_net.py --config-file configs/shapes_demo.py --task val --resume
    python tools/run_net.py --config-file configs/shapes_demo.py --task test --resume

A short version of shapes_inductive.py: 15 classes are trained with masks, the other 5 are segmented by their names.

EXPECTED
"""

base = "shapes_inductive.py"
data = dict(shapes=dict(val_scenes=100))
train = dict(iterations=600, log_every=20, save_every=300)
