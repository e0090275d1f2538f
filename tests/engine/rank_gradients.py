"""What tests/engine/test_ranks.py lets several ranks do: gradients of a batch that they share.

mpirun -np 2 python -m tests.engine.rank_gradients OUTPUT.npz
"""

from __future__ import annotations

import sys

import numpy as np

from jseg.engine.ranks import ALONE, Ranks, joined
from jseg.runtime.start import start

BATCH = 4
SETTINGS = ("inductive", "supervised", "transductive")


def batch_gradients(setting: str, micro_batch: int, ranks: Ranks = ALONE) -> dict[str, np.ndarray]:
    """Gradients by name and, as `numbers`, loss terms and number of masks of a batch; this rank sees its share."""
    from tests.engine.tiny_training import UNSEEN, tiny_batch, tiny_config, tiny_trainer  # after Jittor's start

    unseen, lowest = (UNSEEN, -1) if setting == "transductive" else ((), 0)
    config = tiny_config(micro_batch=micro_batch)
    config.model.prompt_dropout = config.model.decoder_dropout = 0.0
    config.loss.recovery = 0.0 if setting == "supervised" else 2.0
    trainer = tiny_trainer(config, unseen, ranks=ranks)
    images, labels = tiny_batch(seed=5, size=BATCH, lowest=lowest)
    share = slice(ranks.rank, None, ranks.world)
    gradients, losses, num_masks = trainer.gradients(images[share], labels[share])
    named = {name: gradient.numpy() for name, gradient in zip(trainer.optimizer.names, gradients, strict=True)}
    return {**named, "numbers": np.array([*losses.values(), num_masks])}


def main(output: str) -> None:
    with joined() as ranks:
        start("cpu")
        found = {}
        for setting in SETTINGS:
            for micro_batch in (0, 1):
                own = batch_gradients(setting, micro_batch, ranks)
                for other in ranks.gathered(own):
                    assert all(np.array_equal(array, other[name]) for name, array in own.items())
                found |= {f"{setting}/{micro_batch}/{name}": array for name, array in own.items()}
        if ranks.first:
            np.savez(output, **found)


if __name__ == "__main__":
    main(sys.argv[1])
