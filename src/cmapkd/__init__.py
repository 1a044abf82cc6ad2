"""CMAPKD: cross-modal adaptive pyramid knowledge distillation for image-text models."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`cmapkd.distill` on first use, so that importing the package stays free of torch."""
    if name == "distill":
        from importlib import import_module

        return import_module("cmapkd.api").distill
    raise AttributeError(f"module 'cmapkd' has no attribute '{name}'")
