"""Comparisons of methods, ablations, tuning, and the demo: many runs of one config."""
