"""CMAPKD: cross-modal adaptive pyramid knowledge distillation for image-text models."""

__version__ = "0.1.0"
