"""The engine: from a config and weights to a model, the training loop, evaluation, checkpoints, ranks."""
