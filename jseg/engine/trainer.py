"""Model, loss and optimiser: the parts of one optimiser step of CLIP-RC (Zhang et al., CVPR 2024, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jittor as jt
import numpy as np

from jseg.config import Config
from jseg.engine.optimizer import AdamW, LossScale, clip, gradient_norm, square_sums
from jseg.engine.ranks import ALONE, Ranks
from jseg.model.clip_rc import ClipRC, trainable
from jseg.model.losses import LossSums, SegmentationLoss, count_masks
from jseg.model.precision import set_precision
from jseg.ops.function import releasing
from jseg.weights.reader import named_list


@dataclass
class StepReport:
    """What one optimiser step reports."""

    losses: dict[str, float]  # mask, dice, recovery_q, recovery_v (weighted) and total, before the update
    lr: float
    gradient_norm: float  # over all trained weights, before clipping
    problem: str = ""  # why nothing was updated; "" = the step is fine
    overflow: bool = False  # the problem was the loss scale of float16 alone, and it is lower now


class Trainer:
    """Model, loss and optimiser of a run; the model is made to compute in `config.precision`, and updated in place.

    Args:
        text: (C, D) float32 embeddings of the classes that training uses, in the order of its training targets.
        unseen: transductive setting: the unseen class ids, whose pixels are -1 in the labels; empty otherwise.
    """

    def __init__(
        self, model: ClipRC, text: np.ndarray, unseen: tuple[int, ...], config: Config, ranks: Ranks = ALONE
    ) -> None:
        self.model, self.config, self.ranks = model, config, ranks
        self.text = jt.array(text).stop_grad()
        self.loss = SegmentationLoss(config.loss, unseen)
        self.frozen = set_precision(model, config.precision)  # float32 values of weights that the model holds in half
        self.loss_scale = LossScale() if config.precision == "fp16" else None
        self.optimizer = AdamW(trainable(model), config.optimizer)

    def step(self, images: np.ndarray, labels: np.ndarray, iteration: int) -> StepReport:
        """One optimiser step (0-based `iteration`), as in the loop of jseg/engine/train.py.

        Args:
            images: (B, 3, H, W) float32, normalised: this rank's share of the batch, as large as the others'.
            labels: (B, H, W) int32 training targets.
        """
        self.set_learning_rate(iteration)
        gradients, losses, _ = self.gradients(images, labels)
        return self.update(gradients, losses)

    def set_learning_rate(self, iteration: int) -> float:
        """Sets the learning rate of step `iteration` (0-based) and returns it."""
        return self.optimizer.set_learning_rate(iteration, self.config.train.iterations, self.config.optimizer)

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[list[jt.Var], dict[str, float], float]:
        """Gradients in the order of `optimizer.names`, loss terms and number of masks of the batch of all ranks.

        Forward and backward run over micro-batches of `train.micro_batch` images, which add up to exactly the batch.
        """
        loss, ranks = self.loss, self.ranks
        micro_batch = self.config.train.micro_batch or len(images)
        parts = len(images) // micro_batch * ranks.world
        # With pseudo labels the number of masks is known only after the last forward pass. Until then the gradients of
        # the terms that are divided by it are kept apart from the others.
        apart = bool(loss.unseen) and micro_batch < len(images)
        num_masks = None if loss.unseen else int(ranks.sum(count_masks(labels)))
        scale = self.loss_scale.scale if self.loss_scale is not None else None
        kept: list[list[jt.Var]] = []  # per loss (one, or two apart): gradients of the micro-batches so far, added up
        sums: list[np.ndarray] = []
        for first in range(0, len(images), micro_batch):
            batch, targets = images[first : first + micro_batch], labels[first : first + micro_batch]
            with releasing() as release:
                part = loss.sums(self.model.training_outputs(jt.array(batch), self.text), targets, targets.shape[1:])
            if apart:
                losses = [loss.mask_part(part), loss.recovery_part(part, 1 / parts)]
            else:
                masks = num_masks
                if masks is None:  # this part is the whole share of this rank
                    masks = part.num_masks if ranks.world == 1 else float(ranks.sum(part.num_masks.numpy())[0])
                losses = [loss.total(part, masks, 1 / parts)]
            if scale is not None:
                losses = [value * scale for value in losses]
            added = [jt.grad(value, self.optimizer.parameters) for value in losses]
            release()
            if kept:
                added = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(kept, added, strict=True)]
            kept = [[gradient.stop_grad() for gradient in of_loss] for of_loss in added]
            numbers = jt.concat([part.focal, part.dice, part.recovery_q, part.recovery_v, part.num_masks])
            jt.sync([numbers] + [gradient for of_loss in kept for gradient in of_loss])
            sums.append(numbers.numpy().astype(np.float64))
            del part, losses, added  # the graph of this micro-batch: memory stays that of one
        total = np.sum(sums, axis=0)
        if apart:
            num_masks = float(ranks.sum(total[4]))
            kept = [[mask / max(num_masks, 1) + recovery for mask, recovery in zip(*kept, strict=True)]]
        gradients, total = ranks.sum_gradients(kept[0], total)
        num_masks = float(total[4] if num_masks is None else num_masks)
        if scale is not None:
            gradients = [gradient * (1 / scale) for gradient in gradients]
        focal, dice, recovery_q, recovery_v = total[:4].tolist()
        terms = loss.terms(LossSums(focal, dice, recovery_q / parts, recovery_v / parts, num_masks, None), num_masks)
        return gradients, {**terms, "total": sum(terms.values())}, num_masks

    def update(self, gradients: list[jt.Var], losses: dict[str, float]) -> StepReport:
        """Updates the weights; when loss or gradient is not finite, nothing is updated and `problem` says so."""
        norm = self.ranks.broadcast(gradient_norm(gradients))  # its last bits decide, so all must have the same
        report, scale = StepReport(losses, self.optimizer.lr, norm), self.loss_scale
        if not math.isfinite(losses["total"]):
            report.problem = f"the loss is {losses['total']}"
        elif not math.isfinite(norm):
            squares = zip(self.optimizer.names, square_sums(gradients), strict=True)
            names = [name for name, value in squares if not math.isfinite(value)]
            where = f" of {named_list(names[:3])} ({len(names)} in all)" if names else ""
            report.problem = f"the gradient{where} is not finite"
            report.overflow = scale is not None and scale.lower()  # the loss scale can be to blame
        else:
            self.optimizer.step(clip(gradients, norm, self.config.optimizer.clip_norm))
            if scale is not None:
                scale.step()
        return report
