"""Operators that the model is built from and that Jittor does not have, or not fast enough."""
