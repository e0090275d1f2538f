r"""CLIP-RC trained on COCO-Stuff (inductive), evaluated on PASCAL VOC 2012: no training on the target.

    python tools/run_net.py --config-file configs/cross_coco_to_voc12.py --task val data.root=/path/to/VOC2012 \
        --weights work_dirs/coco_stuff_inductive/weights.safetensors

All 20 classes count as seen, so mIoU(S) is the mean over all of them, mIoU(U) and hIoU are undefined, and gamma has no
effect. The templates are those of training.

Expected: we know of no published number of CLIP-RC, so none is checked.

Time and memory (estimates, not measured): minutes on a GPU that sustains 10 TFLOP/s (two windows per image, 0.3 TFLOP
each); 2 GB. Basis: docs/reproduce.md, section 4.
"""

from jseg.clip.class_embeddings import COCO_TEMPLATES as _COCO_TEMPLATES

base = "voc12_inductive.py"
cross_dataset = True
model = dict(prompts=100)  # as configs/coco_stuff_inductive.py
text = dict(templates=_COCO_TEMPLATES)
train = dict(milestones=())
expected = {}
