"""Training losses of CLIP-RC: focal and dice on masks, recovery of class and pixel features, pseudo labels."""
