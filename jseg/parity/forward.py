"""forward_eval_*, forward_eps_*: encoder, head, scores and sliding windows."""

from __future__ import annotations

import re
from dataclasses import replace

import jittor as jt
import numpy as np

from jseg.engine.sliding_window import ImageScores
from jseg.model.clip_rc import ClipRC
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden_file import GoldenFile
from jseg.parity.golden_model import GoldenModel, golden_model

EVAL_EXCLUDED = {"slide_margin_lt_1e-4_fraction": "tells how many pixels of the reference are nearly undecided"}
STEP = re.compile(r"_s(\d+)$")  # logits_up_s4: every 4th row and column


def full_name(name: str) -> str:
    """`logits_up_s4` -> `logits_up`."""
    return STEP.sub("", name)


def thinned(full: np.ndarray, name: str) -> np.ndarray:
    """Every n-th row and column of the last two axes, as the name of the golden array says."""
    found = STEP.search(name)
    return full[..., :: int(found.group(1)), :: int(found.group(1))] if found else full


def check_forward_eval(file: GoldenFile) -> dict[str, np.ndarray]:
    """Everything between the images and the labels."""
    golden = golden_model(file)
    model, text, images = golden.build(), jt.array(file["text_feat"]), file["image"]
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        logits = resize_bilinear(model(jt.array(images), text, trace), images.shape[2:]).numpy()
    computed = {name: value.numpy() for name, value in trace.items()} | {"logits_up": logits}
    for setting in ("inductive", "transductive"):
        pictures = _pictures(golden, model, text, images, setting, "whole")
        computed[f"eval_{setting}"] = np.stack([picture.scores() for picture in pictures])
        if setting == "inductive":
            computed["eval_argmax"] = np.stack([picture.labels() for picture in pictures])
    if "slide_image" in file:
        computed |= _sliding(golden, model, text, file["slide_image"], tuple(file["ori_shape"][:2].tolist()))
    prompts = golden.config("inductive").model.prompts
    for name in file.arrays:
        if name.startswith("tokens_block"):
            computed[name] = with_prompt_rows(computed[name], file.arrays[name], prompts)
    return {
        name: thinned(computed[full_name(name)], name)
        for name in file.arrays
        if full_name(name) in computed and name not in file.read
    }


def with_prompt_rows(tokens: np.ndarray, recorded: np.ndarray, prompts: int) -> np.ndarray:
    """`tokens` (B, T, width) of a block with the recorded rows of prompts put in after the class token.

    We do not compute those: the next layer replaces them, and tolerances.json leaves them out.
    """
    return np.concatenate([tokens[:, :1], recorded[:, 1 : 1 + prompts], tokens[:, 1:]], axis=1)


def _pictures(
    golden: GoldenModel, model: ClipRC, text: jt.Var, images: np.ndarray, setting: str, mode: str
) -> list[ImageScores]:
    config = golden.config(setting)
    test = replace(config.test, mode=mode)
    return [ImageScores(model, image, text, golden.classes.seen, config.gamma(), test) for image in images]


def _sliding(
    golden: GoldenModel, model: ClipRC, text: jt.Var, images: np.ndarray, original: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What comes of images that are larger than a window, at their own size and at the `original` one."""
    inductive = _pictures(golden, model, text, images, "inductive", "slide")
    transductive = _pictures(golden, model, text, images, "transductive", "slide")
    return {
        "slide_inductive": np.stack([picture.scores() for picture in inductive]),
        "slide_argmax": np.stack([picture.labels() for picture in inductive]),
        "slide_rescaled_inductive": np.stack([picture.scores(original) for picture in inductive]),
        "slide_rescaled_argmax": np.stack([picture.labels(original) for picture in inductive]),
        "slide_transductive": np.stack([picture.scores() for picture in transductive]),
        "slide_transductive_argmax": np.stack([picture.labels() for picture in transductive]),
    }


def check_forward_eps(file: GoldenFile) -> dict[str, np.ndarray]:
    """The encoder with weights so small that the eps of each normalisation shows."""
    golden = golden_model(file)
    model = golden.build(scaled=tuple(file.json("scaled_keys_json")), scale=float(file["scale"]))
    images = file.companion(f"forward_eval_{file.tag}.npz")["image"]
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        model.encode(jt.array(images), trace)
    return {name: value.numpy() for name, value in trace.items()}
