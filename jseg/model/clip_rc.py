"""CLIP-RC: the whole model.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024;
https://github.com/uyzhang/CLIP-RC. State names are those of the released checkpoints. A `trace` dictionary receives
intermediates under the names of the recorded outputs of the released models: those of jseg/model/image_encoder.py and
`ram_q` (B, M * C, 2D), `ram_v` (B, N, 3D), `q<i>` (B, M * C, D) and `v<i>` (B, N, D) for i = 0.., `logits_grid`.
"""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.clip.blocks import Dropout, Linear, Trace
from jseg.config import ModelConfig
from jseg.errors import UserError
from jseg.model.decoder import DecoderLayer, DecoderSide, RecoveryDecoder, decode
from jseg.model.image_encoder import ImageEncoder, ImageFeatures, as_maps
from jseg.model.losses import TrainingOutputs
from jseg.model.regions import class_queries, pixel_features, pixels, query_features


def build_clip_rc(config: ModelConfig, norm_eps: float = 1e-5, prompt_norm_eps: float = 1e-6) -> ClipRC:
    """The model, in evaluation mode and without weights yet: follow with `initialise` or `load_released`.

    Prompts and head train; CLIP's image tower and the region tokens are frozen.

    Args:
        norm_eps, prompt_norm_eps: of the layer normalisations; the released models have the defaults.

    Raises:
        UserError: sizes that do not go together.
    """
    model = ClipRC(ImageEncoder(config, norm_eps, prompt_norm_eps), DecodeHead(config, norm_eps))
    for name, var in model.state_dict().items():
        if not is_trained(name):
            var.stop_grad()  # gradients still flow through; never use Module.train()/eval(), which undo this
    return model


class ClipRC(nn.Module):
    """Image encoder and head."""

    def __init__(self, backbone: ImageEncoder, decode_head: DecodeHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = decode_head

    def encode(self, images: jt.Var, trace: Trace | None = None) -> ImageFeatures:
        """Image features, independent of any class; images (B, 3, H, W) float32, normalised."""
        return self.backbone(images, trace)

    def execute(self, images: jt.Var, text: jt.Var, trace: Trace | None = None) -> jt.Var:
        """Mask logits (B, C, h, w) on the patch grid; `resize_bilinear` brings them to pixels, a sigmoid to scores.

        Args:
            images: (B, 3, H, W) float32, normalised; any multiples of the patch size that the region grid fits.
            text: (C, D) float32, class embeddings of unit length.

        Raises:
            UserError: image size or text features that do not fit the model.
        """
        return self.decode_head(self.encode(images, trace), text, trace)

    def training_outputs(self, images: jt.Var, text: jt.Var, trace: Trace | None = None) -> TrainingOutputs:
        """The logits, and the inputs of the recovery loss; arguments as for `execute`."""
        return self.decode_head.training_outputs(self.encode(images, trace), text, trace)


class DecodeHead(nn.Module):
    """Image features and text (C, D) -> mask logits."""

    def __init__(self, config: ModelConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        depth = config.output_dim

        def layers(count: int) -> list[DecoderLayer]:
            sizes = (depth, config.decoder_heads, config.ffn_factor, config.decoder_dropout, norm_eps)
            return [DecoderLayer(*sizes) for _ in range(count)]

        self.depth = depth
        self.decoder_q = DecoderSide(layers(config.decoder_layers))
        self.decoder_v = DecoderSide(layers(config.decoder_layers))
        self.recovery_decoder = RecoveryDecoder(layers(config.recovery_layers), layers(config.recovery_layers), depth)
        self.lateral_proj = Linear((3 if config.region_grid else 2) * depth, depth)
        self.q_proj = Linear(2 * depth, depth)

    def decode(self, features: ImageFeatures, text: jt.Var, trace: Trace | None) -> tuple[jt.Var, jt.Var, jt.Var]:
        """Class queries (B, M * C, D), index m * C + c, and pixels (B, N, D) after the decoder; mask logits."""
        if len(text.shape) != 2 or text.shape[1] != self.depth:
            raise UserError(f"text features are {tuple(text.shape)}: expected (classes, {self.depth}) for this model")
        q, v = class_queries(features, text, self.q_proj), pixels(features, self.lateral_proj)
        if trace is not None:
            trace["ram_q"], trace["ram_v"] = query_features(features, text), pixel_features(features)
            trace["q0"], trace["v0"] = q, v
        q, v = decode(self.decoder_q.layers, self.decoder_v.layers, q, v, trace)
        # the mean over regions of q @ v^T
        mean = q.reshape(q.shape[0], q.shape[1] // len(text), len(text), self.depth).mean(1)  # (B, C, D)
        logits = as_maps(jt.matmul(v, mean.transpose(0, 2, 1)), features.patch_grid)
        if trace is not None:
            trace["logits_grid"] = logits
        return q, v, logits

    def execute(self, features: ImageFeatures, text: jt.Var, trace: Trace | None = None) -> jt.Var:
        """Mask logits (B, C, h, w) on the patch grid."""
        return self.decode(features, text, trace)[2]

    def training_outputs(self, features: ImageFeatures, text: jt.Var, trace: Trace | None = None) -> TrainingOutputs:
        """As `execute`, with the recovery decoder."""
        q, v, logits = self.decode(features, text, trace)
        recovered_queries, recovered_pixels = self.recovery_decoder(q, v)
        targets = query_features(features, text).detach(), features.patches.detach()
        return TrainingOutputs(logits, recovered_queries, targets[0], recovered_pixels, targets[1])


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
