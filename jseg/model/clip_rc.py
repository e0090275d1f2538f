"""CLIP-RC: the whole model.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024;
https://github.com/uyzhang/CLIP-RC. State names are those of the releases. A `trace` receives intermediates: those of
image_encoder.py, `ram_q` (B, M * C, 2D), `ram_v` (B, N, 3D), `q<i>` (B, M * C, D), `v<i>` (B, N, D), `logits_grid`.
"""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.clip.blocks import Dropout, Trace
from jseg.config import ModelConfig
from jseg.model.head import DecodeHead
from jseg.model.image_encoder import ImageEncoder
from jseg.model.losses import TrainingOutputs


def build_clip_rc(config: ModelConfig, norm_eps: float = 1e-5, prompt_norm_eps: float = 1e-6) -> ClipRC:
    """The model, in evaluation mode and without weights yet; prompts and head train, all else is frozen."""
    model = ClipRC(ImageEncoder(config, norm_eps, prompt_norm_eps), DecodeHead(config, norm_eps))
    for name, var in model.state_dict().items():
        if not is_trained(name):
            var.stop_grad()  # gradients still flow through; never use Module.train()/eval(), which undo this
    return model


class ClipRC(nn.Module):
    """Image encoder and head."""

    def __init__(self, backbone: ImageEncoder, decode_head: DecodeHead) -> None:
        self.backbone, self.decode_head = backbone, decode_head

    def execute(self, images: jt.Var, text: jt.Var, trace: Trace | None = None) -> jt.Var:
        """Mask logits (B, C, h, w) on the patch grid; `resize_bilinear` brings them to pixels, a sigmoid to scores.

        Images (B, 3, H, W) float32, normalised, any multiples of the patch size that the region grid fits; text (C, D)
        float32, class embeddings of unit length. Raises UserError where either does not fit the model.
        """
        return self.decode_head(self.backbone(images, trace), text, trace)

    def training_outputs(self, images: jt.Var, text: jt.Var, trace: Trace | None = None) -> TrainingOutputs:
        """The logits, and the inputs of the recovery loss; arguments as for `execute`."""
        return self.decode_head.training_outputs(self.backbone(images, trace), text, trace)


def is_trained(name: str) -> bool:
    """Whether the weight of this state name trains: prompts of the backbone, everything in the head."""
    return name.startswith("decode_head.") or "prompt" in name


def trainable(model: ClipRC) -> list[tuple[str, jt.Var]]:
    """State names and weights that train, in state order."""
    return [(name, var) for name, var in model.state_dict().items() if is_trained(name)]


def set_training(model: nn.Module, flag: bool) -> None:
    """Switches dropout on or off; nothing else depends on the mode."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.active = flag
