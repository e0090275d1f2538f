"""CLIP-RC in plain PyTorch, slow and literal, to make golden sets of any size.

Written from docs/method.md, with no code and no rewriting in common with jseg: masks are matrices, features are
concatenated before they are projected, mask logits are made per region and then averaged.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """(B, Tq, W), (B, Tk, W) -> (B, Tq, W)"""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    return ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


def region_mask(grid: int, regions: int, leading: int) -> Tensor:
    patches = grid * grid
    mask = torch.full((leading + patches + regions**2,) * 2, -math.inf)
    mask[: leading + patches, : leading + patches] = 0
    if not regions:
        return mask
    for row in range(grid):
        for column in range(grid):
            patch = leading + row * grid + column
            region = leading + patches + row // (grid // regions) * regions + column // (grid // regions)
            mask[patch, region] = mask[region, patch] = mask[region, region] = 0
    return mask


def encode(state: State, values: dict, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Global (B, D), regions (B, M, D) (M = 0: none), patches (B, N, D), of unit length."""
    s = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    eps, prompts, grid = values["norm_eps"], values["K"], values["img"] // values["patch"]
    patches = functional.conv2d(images, s["conv1.weight"], stride=values["patch"]).flatten(2).transpose(1, 2)
    batch = len(images)
    first = s["class_embedding"].expand(batch, 1, -1)
    tokens = torch.cat([first, patches], 1) + s["positional_embedding"]
    tokens[:, 0] = tokens[:, 0] + s["class_embedding"]
    if values["M"]:
        tokens = torch.cat([tokens, s["region_level_bridge"].expand(batch, -1, -1)], 1)
    tokens = norm(s, "ln_pre", tokens, eps)
    mask = region_mask(grid, math.isqrt(values["M"]), 1 + prompts)
    for layer in range(values["layers"]):
        name = f"transformer.resblocks.{layer}"
        fresh = s["prompt_embeddings"][0] if layer == 0 else s["deep_prompt_embeddings"][layer - 1]
        rest = tokens[:, 1:] if layer == 0 else tokens[:, 1 + prompts :]
        tokens = torch.cat([tokens[:, :1], linear(s, "prompt_proj", fresh).expand(batch, -1, -1), rest], 1)
        x = norm(s, f"{name}.ln_1", tokens, eps)
        q, k, v = functional.linear(x, s[f"{name}.attn.in_proj_weight"], s[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
        tokens = tokens + linear(s, f"{name}.attn.out_proj", attention(q, k, v, values["heads"], mask))
        hidden = linear(s, f"{name}.mlp.c_fc", norm(s, f"{name}.ln_2", tokens, eps))
        tokens = tokens + linear(s, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    first_region = 1 + prompts + grid * grid
    others = norm(s, "prompt_norm", tokens[:, :first_region], values["prompt_norm_eps"])
    out = norm(s, "ln_post", torch.cat([others, tokens[:, first_region:]], 1), eps) @ s["proj"]
    out = out / out.norm(dim=-1, keepdim=True)
    return out[:, 0], out[:, first_region:], out[:, 1 + prompts : first_region]


def two_way(
    state: State, sides: tuple[str, str], layers: int, q: Tensor, v: Tensor, values: dict
) -> tuple[Tensor, Tensor]:
    def layer(name: str, x: Tensor, memory: Tensor) -> Tensor:
        parts = (
            linear(state, f"{name}.multihead_attn.{key}", y) for key, y in zip("qkv", (x, memory, memory), strict=True)
        )
        attended = linear(state, f"{name}.multihead_attn.proj", attention(*parts, values["head_heads"]))
        x = norm(state, f"{name}.norm2", x + attended, values["norm_eps"])
        inner = linear(state, f"{name}.linear2", linear(state, f"{name}.linear1", x).relu())
        return norm(state, f"{name}.norm3", x + inner, values["norm_eps"])

    for index in range(layers):
        q, v = layer(f"{sides[0]}.{index}", q, v), layer(f"{sides[1]}.{index}", v, q)
    return q, v


def head(state: State, values: dict, features: tuple[Tensor, Tensor, Tensor], text: Tensor) -> dict[str, Tensor]:
    s = {name.removeprefix("decode_head."): value for name, value in state.items() if name.startswith("decode_head.")}
    whole, regions, patches = features
    batch, count, side = len(whole), len(text), math.isqrt(values["M"])
    grid = math.isqrt(patches.shape[1])
    if values["M"]:
        expanded = text.expand(batch, values["M"], count, -1)
        ram_q = torch.cat([(regions + whole[:, None])[:, :, None] * expanded, expanded], -1).flatten(1, 2)
        maps = regions.transpose(1, 2).unflatten(2, (side, side))
        maps = functional.interpolate(maps, size=(grid, grid), mode="bilinear", align_corners=False)
        ram_v = torch.cat([maps.flatten(2).transpose(1, 2), whole[:, None].expand_as(patches), patches], -1)
    else:  # ZegCLIP's descriptors
        ram_q = torch.cat([whole[:, None] * text, text.expand(batch, -1, -1)], -1)
        ram_v = torch.cat([whole[:, None].expand_as(patches), patches], -1)
    q, v = linear(s, "q_proj", ram_q), linear(s, "lateral_proj", ram_v)
    q, v = two_way(s, ("decoder_q.layers", "decoder_v.layers"), values["decoder_layers"], q, v, values)
    logits = (q @ v.transpose(1, 2)).unflatten(1, (max(values["M"], 1), count)).mean(1).unflatten(2, (grid, grid))
    r = {name.removeprefix("recovery_decoder."): value for name, value in s.items() if name.startswith("recovery")}
    rq, rv = linear(r, "linear_q_in", q), linear(r, "linear_k_in", v)
    rq, rv = two_way(r, ("decouple_q", "decouple_v"), values["recovery_layers"], rq, rv, values)
    return {
        "logits_grid": logits, "out.q": linear(r, "linear_q_out", rq), "out.ori_q": ram_q.detach(),
        "out.lateral": linear(r, "linear_k_out", rv), "out.ori_lateral": patches.detach(),
    }  # fmt: skip


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def losses(
    outputs: dict[str, Tensor], masks: Tensor, labels: Tensor, weights: list[float], values: dict
) -> dict[str, Tensor]:
    """Weighted terms of the loss; labels (B, H, W), 255 = ignored."""
    target = (labels[:, None] == torch.arange(masks.shape[1]).view(1, -1, 1, 1)).float()
    probability = masks.sigmoid()
    cost = functional.binary_cross_entropy_with_logits(masks, target, reduction="none")
    error = probability * (1 - target) + (1 - probability) * target
    alpha = values["focal_alpha"] * target + (1 - values["focal_alpha"]) * (1 - target)
    present = target.sum((2, 3)) > 0
    count = max(int(present.sum()), 1)
    overlap, area = (probability * target).sum((2, 3)), (probability + target).sum((2, 3))
    return {
        "loss_mask": weights[0] * (alpha * error ** values["focal_gamma"] * cost).mean((2, 3)).sum() / count,
        "loss_dice": weights[1] * (1 - (2 * overlap + 1) / (area + 1))[present].sum() / count,
        "recovery_loss_q": weights[2] * (outputs["out.q"] - outputs["out.ori_q"]).abs().mean(),
        "recovery_loss_k": weights[2] * (outputs["out.lateral"] - outputs["out.ori_lateral"]).abs().mean(),
    }


def sliding_scores(state: State, values: dict, image: Tensor, text: Tensor, gamma: float) -> Tensor:
    """Calibrated scores of one image (1, 3, H, W), averaged over windows as the releases place them: (1, C, H, W)."""
    crop, stride, (height, width) = values["img"], values["stride"], image.shape[2:]
    penalty = torch.zeros(1, len(text), 1, 1)
    penalty[:, values["seen"]] = gamma
    total, hits = torch.zeros(1, len(text), height, width), torch.zeros(1, 1, height, width)
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            place = (..., slice(max(bottom - crop, 0), bottom), slice(max(right - crop, 0), right))
            logits = head(state, values, encode(state, values, image[place]), text)["logits_grid"]
            total[place] += upsample(logits, (crop, crop)).sigmoid() - penalty
            hits[place] += 1
    return total / hits


def read_state(path: Path) -> tuple[State, dict, Tensor]:
    """Weights, configuration and text features of a weights_*.npz."""
    file = np.load(path)
    state = {name: torch.from_numpy(file[name]) for name in file.files if name not in ("text_feat", "config_json")}
    return state, json.loads(str(file["config_json"])), torch.from_numpy(file["text_feat"])
