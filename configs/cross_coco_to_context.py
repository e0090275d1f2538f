r"""CLIP-RC trained on COCO-Stuff (inductive), evaluated on PASCAL Context: no training on the target.

    python tools/run_net.py --config-file configs/cross_coco_to_context.py --task val data.root=/path/to/VOC2010 \
        --weights work_dirs/coco_stuff_inductive/weights.safetensors

All 59 classes count as seen, so mIoU(S) is the mean over all of them, mIoU(U) and hIoU are undefined, and gamma and
split have no effect. The templates are those of training.

Expected: we know of no published number of CLIP-RC, so none is checked.

Time and memory (estimates, not measured): minutes on a GPU that sustains 10 TFLOP/s (two windows per image, 0.3 TFLOP
each); 2 GB. Basis: docs/reproduce.md, section 4.
"""

base = "context_inductive.py"
cross_dataset = True
train = dict(milestones=())
