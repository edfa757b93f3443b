"""Asymmetry disentanglement for stroke segmentation in non-contrast CT, in JAX."""
