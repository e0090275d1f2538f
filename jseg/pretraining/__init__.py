"""Contrastive pre-training of a small CLIP on captioned `shapes` scenes: tools/pretrain_clip.py."""
