"""CLIP-RC on PASCAL Context (59 classes), inductive, seen from several views: ours, not measured on photographs.

    python tools/run_net.py --config-file configs/context_plus.py --task val \
        --weights work_dirs/context_inductive/weights.safetensors data.root=/path/to/VOC2010

The weights are those of context_inductive.py, or the authors'. Each image is segmented at three sizes, each mirrored
too, and the views are averaged. Chosen on the built-in data set (docs/beyond.md), where it brings 13 points of hIoU;
its patches are coarse for its objects, so expect less on photographs. Time: about 12 times that of one view.
"""

base = "context_inductive.py"
test = dict(scales=(1.0, 1.25, 1.5), flip=True)
expected = {}
