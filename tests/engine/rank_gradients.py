"""What tests/engine/test_ranks.py lets several ranks do: gradients of a batch that they share, a step gone bad on one.

mpirun -np 2 python -m tests.engine.rank_gradients OUTPUT.npz
"""

import sys

import numpy as np

from jseg.runtime.ranks import ALONE, Ranks, join_ranks
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
    gradients, sums = trainer.gradients(images[share], labels[share])
    sums = sums.numpy()
    named = {name: gradient.numpy() for name, gradient in zip(trainer.optimizer.names, gradients, strict=True)}
    return {**named, "numbers": np.array([*trainer.loss.values(sums).values(), sums[4]])}


def main(output: str) -> None:
    with join_ranks() as ranks:
        start("cpu")
        found = {}
        for setting in SETTINGS:
            for micro_batch in (0, 1):
                own = batch_gradients(setting, micro_batch, ranks)
                for other in ranks.all_gather(own):
                    assert all(np.array_equal(array, other[name]) for name, array in own.items())
                found |= {f"{setting}/{micro_batch}/{name}": array for name, array in own.items()}
        connected = Ranks(ranks._communicator)
        assert connected.connect_gpus("cpu") == "" and connected.connect_gpus("cuda") == "gradients go through NCCL"
        connected.sum = None  # nothing goes through main memory, for which the host would wait
        found |= {name: sums_of(way) for name, way in (("nccl", connected), ("main_memory", ranks))}
        found["problems"] = np.array([ranks.all_gather(bad_step(way)) for way in (connected, ranks)])
        if ranks.first:
            np.savez(output, **found)


def sums_of(ranks: Ranks) -> np.ndarray:
    """Gradients of two tensors and their numbers, added up, one of them twice; the first rank's tensor."""
    import jittor as jt

    arrays = [np.random.default_rng(ranks.rank).normal(size=size).astype(np.float32) for size in [(3, 5), (70,)]]
    tensors = [jt.array(array) for array in arrays]
    sums, numbers = ranks.sum_gradients(tensors, jt.array64(np.arange(2.0) / 3))
    found = *sums, ranks.total(tensors[1]), ranks.first_of(tensors[1]), numbers
    return np.concatenate([x.numpy().ravel() for x in found])


def bad_step(ranks: Ranks) -> str:
    """What each rank says of a step when only the last one's images are bad."""
    from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer, weights

    trainer = tiny_trainer(tiny_config(), ranks=ranks)
    before, (images, labels) = weights(trainer), tiny_batch(seed=5)
    if ranks.rank == ranks.world - 1:
        images[:] = np.nan
    report = trainer.step(images, labels, 0)
    assert all(np.array_equal(array, before[name]) for name, array in weights(trainer).items())
    return report.problem


if __name__ == "__main__":
    main(sys.argv[1])
