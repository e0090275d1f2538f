"""Comparison with recorded outputs of the released models: what `tools/check_parity.py` and the parity tests run."""
