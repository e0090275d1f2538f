"""The engine: configuration, the training loop, evaluation, checkpoints."""
