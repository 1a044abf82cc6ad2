"""Readers of image folders: one folder per class, ImageNet, and folders with a metadata file."""
