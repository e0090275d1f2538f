"""CLIP-RC on the built-in data set, seen from several views: the best that we know without another training.

    python tools/reproduce.py --suite shapes --rows shapes_inductive,shapes_plus --seeds 1

    python tools/run_net.py --config-file configs/shapes_plus.py --task val \
        --weights work_dirs/shapes_inductive/weights.safetensors

The weights are those of shapes_inductive.py. Each image is segmented at three sizes, each mirrored too, and the views
are averaged: 18 windows instead of 1. Gamma is 0.075. Both were chosen on held-out seen classes (docs/beyond.md).

Hardware: one core of a busy AMD EPYC (Zen 3). Time: two to three minutes.
Expected numbers: mean of 3 seeds (2026-11-29), with a tolerance for a single seed and other processors.
"""

base = "shapes_inductive.py"
test = dict(scales=(1.0, 1.25, 1.5), flip=True, gamma=0.075)
expected = {"pAcc": (89.1, 6.0), "mIoU(S)": (81.9, 6.0), "mIoU(U)": (74.8, 8.0), "hIoU": (78.2, 6.0)}
