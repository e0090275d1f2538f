"""One optimiser step of CLIP-RC (Zhang et al., CVPR 2024, section 4.1) on a given batch.

Set the learning rate, forward and backward over micro-batches, update. The loop around it is jseg/engine/loop.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jittor as jt
import numpy as np

from jseg.config import Config
from jseg.engine.moving_average import MovingAverage
from jseg.engine.optimizer import AdamW, LossScale, clip, gradient_norm, not_finite
from jseg.engine.ranks import ALONE, Ranks
from jseg.model.clip_rc import ClipRC, trainable
from jseg.model.losses import LossSums, SegmentationLoss, count_masks
from jseg.model.precision import set_precision
from jseg.ops.function import releasing
from jseg.weights.state import named_list


@dataclass
class StepReport:
    """What one optimiser step reports."""

    losses: dict[str, float]  # mask, dice, recovery_q, recovery_v (weighted) and total, before the update
    num_masks: float  # present (image, class) pairs of the batch
    lr: float  # of the first parameter group
    gradient_norm: float  # over all trained weights, before clipping
    problem: str = ""  # why nothing was updated; "" = the step is fine
    overflow: bool = False  # the problem was the loss scale of float16 alone, and it is lower now


class Trainer:
    """Model, loss and optimiser of a run.

    Args:
        model: with its weights; is made to compute in `config.precision`. Trainable ones are updated in place.
        text: (C, D) float32 embeddings of the classes that training uses, in the order of its training targets.
        unseen: transductive setting: the unseen class ids, whose pixels are -1 in the labels; empty otherwise.
        config: of the whole run.
        ranks: the processes that share each batch.
    """

    def __init__(
        self, model: ClipRC, text: np.ndarray, unseen: tuple[int, ...], config: Config, ranks: Ranks = ALONE
    ) -> None:
        self.model = model
        self.text = jt.array(text).stop_grad()
        self.loss = SegmentationLoss(config.loss, unseen)
        self.config, self.ranks = config, ranks
        self.frozen = set_precision(model, config.precision)  # float32 values of weights that the model holds in half
        self.loss_scale = LossScale() if config.precision == "fp16" else None
        self.optimizer = AdamW(trainable(model), config.optimizer)
        self.average = MovingAverage(trainable(model), config.train.ema) if config.train.ema else None

    def step(self, images: np.ndarray, labels: np.ndarray, iteration: int) -> StepReport:
        """One optimiser step, in micro-batches of `train.micro_batch` pictures that add up to exactly the batch.

        Args:
            images: (B, 3, H, W) float32, normalised: this rank's share of the batch, as large as the others'.
            labels: (B, H, W) int32 training targets.
            iteration: 0-based number of the step, which decides the learning rate.

        Returns:
            Its report; when the loss or the gradient is not finite, nothing is updated and `problem` says so.
        """
        iterations = self.config.train.iterations
        lr = self.optimizer.set_learning_rate(iteration, iterations, self.config.optimizer)
        gradients, losses, num_masks = self.gradients(images, labels)
        norm = self.ranks.of_first(gradient_norm(gradients))  # its last bits decide, so all must have the same
        problem = self._problem(losses["total"], norm, gradients)
        overflow = bool(problem) and self._overflowed(losses["total"])
        if not problem:
            self.optimizer.step(clip(gradients, norm, self.config.optimizer.clip_norm))
            if self.average is not None:
                self.average.update(self.optimizer.steps)
            if self.loss_scale is not None:
                self.loss_scale.step()
        return StepReport(losses, num_masks, lr, norm, problem, overflow)

    def _overflowed(self, loss: float) -> bool:
        """Lowers the loss scale if it can be to blame for a gradient that is not finite."""
        return self.loss_scale is not None and math.isfinite(loss) and self.loss_scale.lower()

    def _problem(self, loss: float, norm: float, gradients: list[jt.Var]) -> str:
        if math.isfinite(loss) and math.isfinite(norm):
            return ""
        names = not_finite(self.optimizer.names, gradients)
        gradient = f"the gradient of {named_list(names[:3])} ({len(names)} in all)" if names else "the gradient"
        return f"the loss is {loss}" if not math.isfinite(loss) else f"{gradient} is not finite"

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[list[jt.Var], dict[str, float], float]:
        """Gradients in the order of `optimizer.names`, loss terms and number of masks of the batch of all ranks."""
        micro_batch = self.config.train.micro_batch or len(images)
        parts = len(images) // micro_batch * self.ranks.world
        # With pseudo labels the number of masks is known only after the last forward pass. Until then the gradients of
        # the terms that are divided by it are kept apart from the others.
        apart = bool(self.loss.unseen) and micro_batch < len(images)
        num_masks = None if self.loss.unseen else int(self.ranks.sum(count_masks(labels)))
        sums: list[np.ndarray] = []
        kept: list[
            list[jt.Var]
        ] = []  # per loss (one, or two apart): the gradients of the micro-batches so far, added up
        for first in range(0, len(images), micro_batch):
            picked = slice(first, first + micro_batch)
            with releasing() as release:
                part = self._sums(images[picked], labels[picked])
            if apart:
                losses = [self.loss.mask_part(part), self.loss.recovery_part(part, 1 / parts)]
            else:
                masks = self._all_masks(part) if num_masks is None else num_masks
                losses = [self.loss.total(part, masks, 1 / parts)]
            if self.loss_scale is not None:
                losses = [loss * self.loss_scale.scale for loss in losses]
            added = [jt.grad(loss, self.optimizer.parameters) for loss in losses]
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
            num_masks = float(self.ranks.sum(total[4]))
            gradients = [mask / max(num_masks, 1) + recovery for mask, recovery in zip(*kept, strict=True)]
        else:
            (gradients,) = kept
        gradients, total = self.ranks.sum_gradients(gradients, total)
        if num_masks is None:
            num_masks = float(total[4])
        if self.loss_scale is not None:
            gradients = [gradient * (1 / self.loss_scale.scale) for gradient in gradients]
        return gradients, self._terms(total, parts, num_masks), float(num_masks)

    def _all_masks(self, part: LossSums) -> jt.Var | float:
        """Number of masks of all ranks when `part` is the whole share of this one."""
        return part.num_masks if self.ranks.world == 1 else float(self.ranks.sum(part.num_masks.numpy())[0])

    def _sums(self, images: np.ndarray, labels: np.ndarray) -> LossSums:
        outputs = self.model.training_outputs(jt.array(images), self.text)
        return self.loss.sums(outputs, labels, labels.shape[1:])

    def _terms(self, total: np.ndarray, parts: int, num_masks: float) -> dict[str, float]:
        """Weighted loss terms of the batch from the sums of its micro-batches."""
        focal, dice, recovery_q, recovery_v = total[:4].tolist()
        whole = LossSums(focal, dice, recovery_q / parts, recovery_v / parts, num_masks, None)
        terms = self.loss.terms(whole, num_masks)
        return {**terms, "total": sum(terms.values())}
