"""The configuration in which a plain CLIP segments without training; nothing here needs Jittor."""

from jseg.clip.weights import ClipWeights
from jseg.config import Config, DataConfig, ModelConfig, TestConfig, TextConfig, check
from jseg.errors import UserError

CLIP_MEAN = (122.7709, 116.7460, 104.0937)  # RGB, of values in [0, 255]: https://github.com/openai/CLIP
CLIP_STD = (68.5005, 66.6322, 70.3232)


def plain_clip_config(clip: ClipWeights, features: str) -> Config:
    """Sizes are those of the weights; `features`: one of `TRAINING_FREE`. UserError if anything does not fit.

    Windows are as large as the images that the CLIP was trained on, at half their size apart, over an image of one and
    a half times that short side (as NACLIP: 224, 112 and 336).
    """
    sizes, size, source = clip.config, clip.config["image_size"], clip.source
    if not sizes["image_heads"]:
        cure = "convert it by tools/convert_weights.py with --image-heads"
        raise UserError(f"{source.path} does not tell the attention heads of its image tower: {cure}")
    model = ModelConfig(
        image_size=size, patch_size=sizes["patch_size"], width=sizes["image_width"], layers=sizes["image_layers"],
        heads=sizes["image_heads"], output_dim=sizes["output_dim"], region_grid=0, decoder_heads=1,
        init=str(source.path),
    )  # fmt: skip
    text = TextConfig(
        width=sizes["text_width"], layers=sizes["text_layers"], heads=sizes["text_heads"] or 1,
        context_length=sizes["context_length"],
    )  # fmt: skip
    data = DataConfig(crop_size=(size, size))
    if "vocabulary" not in source.meta:  # not pre-trained by tools/pretrain_clip.py, which normalises otherwise
        data.mean, data.std = CLIP_MEAN, CLIP_STD
    stride = size // 2
    test = TestConfig(training_free=features, short_side=size + stride, crop_size=(size, size), stride=(stride, stride))
    config = Config(data=data, model=model, text=text, test=test)
    check(config)
    return config
