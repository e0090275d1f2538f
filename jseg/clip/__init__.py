"""CLIP: image tower, text tower, tokenizer, weights and prompts."""
