"""In which precision a model computes: float32, TF32, bfloat16 or float16 (mixed, with float32 masters).

Micikevicius et al., "Mixed Precision Training", ICLR 2018. Inputs, weights and results of linear layers and attention
have 16 bits. All else stays float32, above all trained weights, their gradients, losses, and the sum that runs through
the residual blocks, whose channels differ so much in size that bfloat16 would lose the smaller ones.
"""

from __future__ import annotations

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Linear
from jseg.errors import UserError
from jseg.ops.half import convert

COMPUTE_TYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
AMPERE = 80  # compute capability x 10
# the frozen weights that large products are made with: ends of their names
PRODUCT_WEIGHTS = ("conv1.weight", "in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight", "backbone.proj")


def check_device(precision: str) -> None:
    """Raises UserError unless the device that Jittor computes on supports the precision."""
    if precision == "tf32" and not jt.flags.use_cuda:
        raise UserError("precision=tf32 needs a GPU: on a CPU use fp32, or bf16 to see what rounding does")
    if jt.flags.use_cuda and precision in ("tf32", "bf16") and min(jt.flags.cuda_archs, default=0) < AMPERE:
        raise UserError(f"precision={precision} needs a GPU of compute capability 8.0: use precision=fp16 or fp32")


def note(precision: str) -> str:
    """A warning for the user about this precision on this device; "" = none."""
    if COMPUTE_TYPES[precision] == "float32" or jt.flags.use_cuda:
        return ""
    return f"precision {precision}: on a CPU, float32 kernels with numbers rounded to {precision}; slower than fp32"


def set_precision(model: nn.Module, precision: str) -> dict[str, np.ndarray]:
    """Makes a model compute in `precision`, once its weights are set.

    Frozen weights of large products are kept in 16 bits; returned are their float32 values by state name.
    """
    check_device(precision)
    # 1 = TF32 for products of float32; with anything but 0, Jittor lets cuBLAS add products of halves up in 16 bits
    jt.flags.use_tensorcore = int(precision == "tf32")
    dtype = COMPUTE_TYPES[precision]
    for module in model.modules():
        if hasattr(module, "compute"):
            module.compute = dtype
    replaced = {}
    for name, var in model.state_dict().items():
        if dtype != "float32" and var.is_stop_grad() and name.endswith(PRODUCT_WEIGHTS):
            replaced[name] = var.numpy()
            var.update(convert(var, dtype))
            var.stop_grad()
    return replaced


def round_trained(model: nn.Module, precision: str) -> dict[str, jt.Var]:
    """Has linear layers compute with copies of trained weights in 16 bits, which are returned by state name."""
    copies, dtype = {}, COMPUTE_TYPES[precision]
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and not layer.weight.is_stop_grad() and dtype != "float32":
            with jt.no_grad():
                copies[f"{name}.weight"] = layer._rounded = convert(layer.weight, dtype).sync()
            layer._rounded.start_grad()  # gradients are taken for the copies, not for the weights
    return copies
