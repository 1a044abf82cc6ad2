"""Models for measurements: pretrained towers, dry runs at full size, inheritance and similarity across kinds."""
