"""Comparison with recorded outputs of the released models: what `tools/check_parity.py` and the parity tests run.

A golden set is a folder of arrays and the inputs that they were computed from; sizes and splits are read from it.
"""
