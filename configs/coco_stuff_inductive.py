r"""CLIP-RC on COCO-Stuff 164k, inductive (Zhang et al., CVPR 2024, table 1).

    python tools/fetch_pretrained.py ViT-B-16 vocabulary
    python tools/run_net.py --config-file configs/coco_stuff_inductive.py --task train data.root=/path/to/coco_stuff164k
    python tools/run_net.py --config-file configs/coco_stuff_inductive.py --task val --resume \
        data.root=/path/to/coco_stuff164k

Data: 118,287 training images, 5,000 for evaluation; 171 classes, 15 of them unseen. The batch size of 16 is inferred:
the published config says 2 per GPU, without the number of GPUs.

Expected: the published numbers, below. The published runs fixed no seed, hence the tolerances.

Time and memory (estimates, not measured): 32 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 14
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

from jseg.clip.class_embeddings import COCO_TEMPLATES as _COCO_TEMPLATES

base = "voc12_inductive.py"  # data preparation, optimiser, windows

_labels = "_labelTrainIds.png"  # written by tools/prepare_coco_stuff.py beside the original maps
data = dict(
    dataset="coco_stuff",
    root="../data/coco_stuff164k",
    train=dict(images="images/train2017", labels="annotations/train2017", names="", label_suffix=_labels),
    val=dict(images="images/val2017", labels="annotations/val2017", names="", label_suffix=_labels),
)
model = dict(prompts=100)
text = dict(templates=_COCO_TEMPLATES)
loss = dict(mask=200.0, dice=3.0, recovery=50.0)
train = dict(iterations=80000, recipe_batch=16, save_every=5000, eval_every=8000, milestones=(40000,))
expected = {"pAcc": [63.1, 1.0], "mIoU(S)": [40.9, 0.7], "mIoU(U)": [41.6, 2.0], "hIoU": [41.2, 1.5]}
