"""CMAPKD: cross-modal adaptive pyramid knowledge distillation for image-text models."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`cmapkd.distill` and `cmapkd.load` on first use, so that importing the package stays free of torch."""
    if name in ("distill", "load"):
        from importlib import import_module

        return getattr(import_module("cmapkd.api"), name)
    raise AttributeError(f"module 'cmapkd' has no attribute '{name}'")
