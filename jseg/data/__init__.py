"""Class lists, label maps, data sets, transforms and batches. NumPy only: worker processes import no Jittor."""
