"""Checks of the Jittor release's model: image encoder, attention masks, head, the whole way from image to labels."""

import math
import re
from typing import Any

import jittor as jt
import numpy as np

from jseg.clip.class_embeddings import TextModel, unit_rows
from jseg.config import Config, ModelConfig, TestConfig
from jseg.engine.sliding_window import ImageScores
from jseg.model.clip_rc import build_clip_rc
from jseg.model.image_encoder import ImageFeatures
from jseg.model.released_weights import DEAD, load_released
from jseg.ops.attention import attention_allowed
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden import GoldenFile
from jseg.weights.state import strict_load

MASK_NAME = re.compile(r".*spatial(\d+)_tokens(\d+)_rlb(\d+)")


def _model_config(backbone: dict[str, Any], head: dict[str, Any], weights: dict[str, np.ndarray]) -> ModelConfig:
    """Our configuration for the release's constructor arguments; the MLP's width follows from the weights."""
    hidden = weights.get("decode_head.decoder_q.layers.0.linear1.bias")
    return ModelConfig(
        image_size=backbone["input_resolution"], patch_size=backbone["patch_size"], width=backbone["width"],
        layers=backbone["layers"], heads=backbone["heads"], output_dim=backbone["output_dim"],
        prompts=backbone["num_tokens"], region_grid=math.isqrt(backbone["region_level_bridge_size"]),
        decoder_layers=head["num_layers"], decoder_heads=head["num_heads"],
        ffn_factor=4 if hidden is None else len(hidden) // backbone["output_dim"],
        recovery_layers=head["recovery_decoder_num_layers"], prompt_dropout=0.0, decoder_dropout=0.0, init="random",
    )  # fmt: skip


def check_encoder(file: GoldenFile) -> dict[str, np.ndarray]:
    """The image encoder, and who attends to whom in it."""
    sizes, images = file.json("cfg"), jt.array(file["in/img"])
    head = {"num_layers": 1, "num_heads": 1, "recovery_decoder_num_layers": 1}
    backbone = build_clip_rc(_model_config(sizes, head, {})).backbone
    strict_load(backbone, file.starting_with("w/"), "golden weights")
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        features = backbone(images, trace)
    allowed = attention_allowed(1 + sizes["num_tokens"], features.patch_grid, features.region_grid)
    return {
        "out/feat0": trace["visual"].numpy(), "out/global": trace["cls"].numpy(),
        "out/region": trace["region"].numpy(), "out/attn_mask": np.where(allowed, 0.0, -np.inf).astype(np.float32),
    }  # fmt: skip


def check_masks(file: GoldenFile) -> dict[str, np.ndarray]:
    """Attention masks of several grids, 1 = masked."""
    computed = {}
    for name in file.arrays:
        if found := MASK_NAME.fullmatch(name):
            side, prompts, regions = (int(number) for number in found.groups())
            region_grid = (math.isqrt(regions),) * 2
            computed[name] = ~attention_allowed(1 + prompts, (side, side), region_grid)
    return computed


def check_head(file: GoldenFile) -> dict[str, np.ndarray]:
    """The head on given image features, for all classes and for the seen ones."""
    sizes, weights = file.json("cfg"), file.starting_with("w/")
    maps, regions = file["in/feat"], file["in/region"]  # (B, D, h, w)
    tokens = [file["in/glob"][:, None], *(x.reshape(*x.shape[:2], -1).transpose(0, 2, 1) for x in (maps, regions))]
    features = ImageFeatures(jt.array(np.concatenate(tokens, 1)), maps.shape[2:], regions.shape[2:])
    size = (sizes["img_size"], sizes["img_size"])
    encoder = {
        "input_resolution": sizes["img_size"], "patch_size": sizes["img_size"] // features.patch_grid[0], "width": 8,
        "layers": 2, "heads": 1, "output_dim": sizes["embed_dims"], "num_tokens": 1,
        "region_level_bridge_size": features.region_grid[0] ** 2,
    }  # fmt: skip
    named = {f"decode_head.{name}": value for name, value in weights.items()}
    head = build_clip_rc(_model_config(encoder, sizes, named)).decode_head
    strict_load(head, {name: value for name, value in weights.items() if not DEAD.match(f"decode_head.{name}")})
    text = file["in/text"]
    with jt.no_grad():
        logits = resize_bilinear(head(features, jt.array(text)), size)
        scores = jt.sigmoid(logits).numpy()
        computed = {"out/eval_self_training": scores, "out/eval_inductive": scores.copy()}
        computed["out/eval_inductive"][:, sizes["seen_idx"]] -= Config().gamma()
        for prefix, classes in (("train", text), ("trainseen", text[sizes["seen_idx"]])):
            outputs = head.training_outputs(features, jt.array(classes))
            computed |= {
                f"out/{prefix}_pred_masks": resize_bilinear(outputs.logits_grid, size).numpy(),
                f"out/{prefix}_q": outputs.recovered_queries.numpy(),
                f"out/{prefix}_ori_q": outputs.query_targets.numpy(),
                f"out/{prefix}_lateral": outputs.recovered_pixels.numpy(),
                f"out/{prefix}_ori_lateral": outputs.pixel_targets.numpy(),
            }
    return computed


def check_segmentor(file: GoldenFile) -> dict[str, np.ndarray]:
    """The whole way from image to labels, in one piece and with sliding windows."""
    sizes, weights = file.json("cfg"), file.starting_with("w/")
    model = build_clip_rc(_model_config(sizes["backbone"], sizes["decode_head"], weights))
    load_released(model, weights)
    if "in/text_embedding" in file.arrays:
        text = jt.array(file["in/text_embedding"])
    else:
        own = {name[13:]: value for name, value in weights.items() if name.startswith("text_encoder.")}
        tower = TextModel(own, sizes["text_encoder"]["transformer_heads"], None, "golden").tower()
        with jt.no_grad():
            text = jt.array(unit_rows(tower(file["in/tokens"]).numpy()))
    images, large = file["in/img"], file["in/img_big"][0]
    whole_size, slide_size = (tuple(file[f"in/{kind}_ori_shape"][:2].tolist()) for kind in ("whole", "slide"))
    config, test = Config(), sizes["test_cfg"]
    config.data.setting = "transductive" if sizes["self_training"] else "inductive"

    def scores_of(image: np.ndarray, mode: str) -> ImageScores:
        options = TestConfig(mode=mode, crop_size=tuple(test["crop_size"]), stride=tuple(test["stride"]))
        return ImageScores(model, image, text, sizes["base_class"], config.gamma(), options)

    whole, slide = [scores_of(image, "whole") for image in images], scores_of(large, "slide")
    return {
        "out/encode_decode": np.stack([scores.scores() for scores in whole]),
        "out/whole_logits": whole[0].scores(whole_size)[None], "out/whole_labels": whole[0].labels(whole_size),
        "out/slide_logits_norescale": slide.scores()[None],
        "out/slide_logits_rescale": slide.scores(slide_size)[None], "out/slide_labels": slide.labels(slide_size),
    }  # fmt: skip
