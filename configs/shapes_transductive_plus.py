"""CLIP-RC on the built-in data set, transductive, seen from several views: see shapes_plus.py.

    python tools/run_net.py --config-file configs/shapes_transductive_plus.py --task val \
        --weights work_dirs/shapes_transductive/weights.safetensors

The weights are those of shapes_transductive.py. Hardware and time as in shapes_plus.py.
Expected numbers: seed 0 (2026-11-29), with a tolerance for other seeds and processors.
"""

base = "shapes_transductive.py"
test = dict(scales=(1.0, 1.25, 1.5), flip=True)
expected = {"pAcc": (90.9, 6.0), "mIoU(S)": (83.5, 6.0), "mIoU(U)": (81.1, 8.0), "hIoU": (82.3, 6.0)}
