"""A folder per class, ImageNet, and an image folder with metadata."""
