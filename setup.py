"""Lets `pip install -e .` and `python setup.py develop` work with old installers; everything is in pyproject.toml."""

from setuptools import setup

setup()
