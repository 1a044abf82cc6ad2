"""Captioning: a small decoder on frozen or trained features, and the COCO caption metrics."""
