"""Floating-point operations and bytes of the model, by formula.

Counted is what the formulae of the model need after the exact rewrites that jseg makes: a product of (m, k) and (k, n)
is 2 m k n operations; element-wise work is left out. Nothing is counted for what frozen weights save.
"""

from __future__ import annotations

from dataclasses import dataclass

from jseg.config import ModelConfig

FLOAT = 4  # bytes
BACKWARD_ATTENTION = 2.0  # four products where the forward pass has two; making the scores again is not counted


@dataclass(frozen=True)
class Sizes:
    """What the work depends on."""

    model: ModelConfig
    classes: int
    image: int  # pixels a side
    batch: int = 1
    precision: str = "fp32"

    @property
    def patches(self) -> int:
        """N."""
        return (self.image // self.model.patch_size) ** 2

    @property
    def regions(self) -> int:
        """M."""
        return self.model.region_grid**2

    @property
    def tower_bytes(self) -> int:
        """A weight of the frozen tower; those of the head are float32 in any precision."""
        return 2 if self.precision in ("bf16", "fp16") else FLOAT


def attention_operations(sizes: Sizes) -> float:
    """Region attention of one layer and one image: scores and weighted values."""
    dense = 1 + sizes.patches
    pairs = dense * (dense + sizes.model.prompts) + 2 * sizes.patches + sizes.regions
    return 4.0 * pairs * sizes.model.width


def _linear_of_tower(sizes: Sizes) -> float:
    """Linear layers of one block on its tokens; prompts apart."""
    tokens, width = 1 + sizes.patches + sizes.regions, sizes.model.width
    return 2.0 * tokens * width * 12 * width


def _linear_of_prompts(sizes: Sizes) -> float:
    """What makes a layer's prompts and projects them to queries, keys and values; once for a whole evaluation."""
    return 2.0 * sizes.model.prompts * sizes.model.width * 4 * sizes.model.width


def _decoder_layer(depth: int, factor: int, rows: int, memory: int) -> tuple[float, float]:
    """Linear layers and attention of one side of a two-way layer."""
    linear = 2.0 * depth * depth * (2 * rows + 2 * memory + 2 * factor * rows)
    return linear, 4.0 * rows * memory * depth


def _upsampling(sizes: Sizes) -> float:
    """Two products that bring the logits from the patch grid to pixels."""
    side = sizes.image // sizes.model.patch_size
    return 2.0 * sizes.classes * side * sizes.image * (side + sizes.image)


def _parts(sizes: Sizes, training: bool) -> dict[str, float]:
    """Operations of one image by part: frozen and trained linear layers, attention."""
    model, depth = sizes.model, sizes.model.output_dim
    queries = sizes.regions * sizes.classes
    pixels_of_patches = 2.0 * sizes.patches * model.width * 3 * model.patch_size**2
    tower = model.layers * _linear_of_tower(sizes) + pixels_of_patches
    tower += 2.0 * (1 + sizes.patches + sizes.regions) * model.width * depth
    head = 2.0 * depth * depth * (queries + sizes.classes + sizes.patches + sizes.regions + 1)
    head += 2.0 * sizes.classes * sizes.patches * depth + _upsampling(sizes)
    attention = model.layers * attention_operations(sizes)
    for _ in range(model.decoder_layers + (model.recovery_layers if training else 0)):
        for rows, memory in ((queries, sizes.patches), (sizes.patches, queries)):
            linear, scores = _decoder_layer(depth, model.ffn_factor, rows, memory)
            head, attention = head + linear, attention + scores
    if training:
        tower += model.layers * _linear_of_prompts(sizes)
        head += 2.0 * depth * depth * (3 * queries + 2 * sizes.patches)
    return {"tower": tower, "head": head, "attention": attention}


def forward_operations(sizes: Sizes) -> float:
    """One evaluation pass over a batch."""
    return sizes.batch * sum(_parts(sizes, training=False).values())


def training_operations(sizes: Sizes) -> float:
    """One training step: the frozen tower passes gradients on (1 x), the head also gathers those of its weights (2 x).

    Nothing is passed on below the prompts of the first layer, that is to its projections and to the patches.
    """
    parts, model = _parts(sizes, training=True), sizes.model
    below = 2.0 * (1 + sizes.patches + sizes.regions) * 3 * model.width**2
    below += 2.0 * sizes.patches * model.width * 3 * model.patch_size**2
    one = 2 * parts["tower"] - below + 3 * parts["head"] + (1 + BACKWARD_ATTENTION) * parts["attention"]
    return sizes.batch * one


def parameter_count(model: ModelConfig) -> tuple[int, int]:
    """Weights of tower (frozen ones and prompts) and head."""
    width, depth = model.width, model.output_dim
    side = model.image_size // model.patch_size
    tower = 3 * model.patch_size**2 * width + (1 + side * side) * width + width + width * depth + 4 * width
    tower += model.layers * (12 * width * width + 13 * width) + model.region_grid**2 * width
    tower += model.layers * model.prompts * width + width * width + 3 * width
    layer = 4 * depth * depth + 2 * model.ffn_factor * depth * depth + (9 + model.ffn_factor) * depth
    head = 2 * (model.decoder_layers + model.recovery_layers) * layer
    head += (2 + 3) * depth * depth + 2 * depth + 5 * depth * depth + 5 * depth
    return tower, head


def forward_bytes(sizes: Sizes) -> float:
    """Bytes that any evaluation pass moves: weights once, pictures in, label maps out."""
    tower, head = parameter_count(sizes.model)
    pixels = sizes.batch * sizes.image**2
    return sizes.tower_bytes * tower + FLOAT * head + FLOAT * 3 * pixels + FLOAT * pixels


def training_bytes(sizes: Sizes) -> float:
    """Bytes that any training step moves: weights forward and backward, and what AdamW reads and writes of the head."""
    tower, head = parameter_count(sizes.model)
    return sizes.tower_bytes * 2 * tower + FLOAT * (2 * head + 8 * head) + FLOAT * 4 * sizes.batch * sizes.image**2
