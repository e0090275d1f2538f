"""Reproduces tables: which rows there are, what each needs, running them, published numbers beside ours."""
