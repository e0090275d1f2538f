"""CLIP-RC on PASCAL Context (59 classes), inductive. The recipe is ours: CLIP-RC published none for this data set.

    python tools/fetch_pretrained.py ViT-B-16 vocabulary
    python tools/run_net.py --config-file configs/context_inductive.py --task train data.root=/path/to/VOC2010
    python tools/run_net.py --config-file configs/context_inductive.py --task val --resume data.root=/path/to/VOC2010

Data: 4,998 training images, 5,105 for evaluation; 59 classes without background, 10 of them unseen. Two splits are in
use: A, the default, and B (add `data.split=B`). Results name the split; numbers on A and B are not comparable.

Our recipe: the loss weights, templates and prompts of COCO-Stuff, 40,000 iterations at batch 16.

Expected: nothing was published for 59 classes and either split, so no number is checked.

Time and memory (estimates, not measured): 12 h on a GPU that sustains 10 TFLOP/s in float32 (a step of 16 crops is 11
TFLOP, counted in multiply-adds); 30-50 GB for 16 crops at once, or 8-13 GB with `train.micro_batch=4`, which gives the
same gradients. Basis: docs/reproduce.md, section 4.
"""

base = "coco_stuff_inductive.py"

_lists = "ImageSets/SegmentationContext"
data = dict(
    dataset="context",
    split="A",
    root="../data/VOC2010",
    train=dict(images="JPEGImages", labels="SegmentationClassContext", names=f"{_lists}/train.txt"),
    val=dict(images="JPEGImages", labels="SegmentationClassContext", names=f"{_lists}/val.txt"),
)
train = dict(iterations=40000, recipe_batch=16, save_every=2000, eval_every=2000, milestones=(20000,))
