"""CLIP-RC on the built-in data set, inductive: 15 of the 20 classes are seen in training, 5 only in evaluation.

    python tools/run_net.py --config-file configs/shapes_inductive.py --task train
    python tools/run_net.py --config-file configs/shapes_inductive.py --task val --resume

Starts from the small CLIP of pretrained/README.md. Decoder, regions and recovery loss are those of the paper's VOC
runs. Changes for a short run: the head starts aligned (jseg/model/initial_weights.py), focal : dice is 2 : 5 instead of
100 : 1, batches are small and the learning rate is higher. The whole benchmark: docs/shapes.md.

Hardware: one core of an AMD EPYC (Zen 3), 0.5 GB. Training took 26 to 39 minutes beside several other programs; the
estimate beside one is 18, from the step time of the transductive row (0.46 s). Evaluation takes half a minute.
Expected numbers: mean of 3 seeds (2026-11-26), with a tolerance for a single seed and other processors.
"""

data = dict(
    dataset="shapes",
    setting="inductive",
    crop_size=(96, 96),
    resize_box=(384, 96),  # scenes are 96 x 96: a ratio of 1 leaves them as they are
    ratio_range=(0.8, 1.5),
    workers=1,
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
    head_init="aligned",
    init="../pretrained/shapes_clip.safetensors",
)
text = dict(width=96, layers=3, heads=4, context_length=48)
loss = dict(mask=2.0, dice=5.0)
optimizer = dict(lr=5e-5, warmup_iterations=60)
train = dict(iterations=2400, batch_size=4, log_every=100, save_every=200, eval_every=400, milestones=(1200,))
test = dict(short_side=96, crop_size=(96, 96), stride=(80, 80))
expected = {"pAcc": (81.4, 6.0), "mIoU(S)": (71.0, 6.0), "mIoU(U)": (59.8, 8.0), "hIoU": (64.9, 6.0)}
