"""Comparisons, ablations, tuning and the demo: many runs of one config."""
