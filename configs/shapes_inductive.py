"""CLIP-RC on the built-in data set, inductive: 15 of the 20 classes are seen in training, 5 are met in evaluation only.

    python tools/run_net.py --config-file configs/shapes_inductive.py --task train
    python tools/run_net.py --config-file configs/shapes_inductive.py --task val --resume

Sizes are those of a small CLIP at 96 pixels; decoder, regions and loss weights as in the paper's VOC runs. The towers
are random (`init="random"`), so seen classes are learned, and unseen ones cannot be: pass a trained small CLIP by
`model.init=FILE text.vocabulary=` (a file of ours brings its vocabulary along).

Hardware: 2 CPU cores. Time: about 0.7 s an iteration, 25 minutes in all. Expected numbers: none stated while the towers
are random.
"""

data = dict(
    dataset="shapes",
    setting="inductive",
    crop_size=(96, 96),
    resize_box=(384, 96),  # scenes are 96 x 96: a ratio of 1 leaves them as they are
    shapes=dict(size=(96, 96), train_scenes=2000, val_scenes=200),
)
model = dict(
    image_size=96,
    patch_size=8,
    width=160,
    layers=4,
    heads=5,
    output_dim=128,
    prompts=4,
    region_grid=4,
    init="random",
)
text = dict(vocabulary="generated", width=96, layers=3, heads=4, context_length=48)
optimizer = dict(lr=1e-4, warmup_iterations=50)
train = dict(iterations=2000, batch_size=8, log_every=50, save_every=500)
test = dict(short_side=96, crop_size=(96, 96), stride=(80, 80))
