"""CLIP-RC: image encoder with prompts and region tokens, text-region alignment, decoders."""
