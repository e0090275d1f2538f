r"""CLIP-RC trained on COCO-Stuff (fully supervised), evaluated on ADE20K's 150 classes: no training on the target.

    python tools/run_net.py --config-file configs/cross_coco_to_ade20k.py --task val \
        --weights work_dirs/coco_stuff_supervised/weights.safetensors data.root=/path/to/ADEChallengeData2016

Data: 2,000 images for evaluation (20,210 for training, which no row uses). Label 0, "other", is ignored. All 150
classes count as seen, so mIoU(S) is the mean over all of them, and mIoU(U) and hIoU are undefined. The templates are
those of training.

Expected: we know of no published number of CLIP-RC, so none is checked. Those of other methods stand beside ours in
`tools/reproduce.py --suite open-vocabulary`.

Time and memory (estimates, not measured): minutes on a GPU that sustains 10 TFLOP/s (two windows per image, 0.4 TFLOP
each); 2 GB. Basis: docs/reproduce.md, section 4.
"""

base = "coco_stuff_supervised.py"
cross_dataset = True
data = dict(
    dataset="ade20k",
    root="../data/ADEChallengeData2016",
    train=dict(images="images/training", labels="annotations/training"),
    val=dict(images="images/validation", labels="annotations/validation"),
)
