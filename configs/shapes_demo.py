"""Demo."""

data = dict(
    dataset="shapes",
    crop_size=(96, 96),
    resize_box=(384, 96),
    workers=1,
    shapes=dict(size=(96, 96), train_scenes=2000, val_scenes=100),
)
model = dict(
    image_size=96,
    patch_size=8,
    width=96,
    layers=3,
    heads=3,
    output_dim=64,
    prompts=4,
    region_grid=4,
    decoder_heads=4,
    init="random",
)
text = dict(vocabulary="generated", width=64, layers=2, heads=2, context_length=24)
optimizer = dict(lr=1e-4, warmup_iterations=20)
train = dict(iterations=400, batch_size=8, log_every=20, save_every=200)
test = dict(short_side=96, crop_size=(96, 96), stride=(80, 80))
