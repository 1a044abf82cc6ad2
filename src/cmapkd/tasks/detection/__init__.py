"""Detection: a small head on the image levels, and COCO average precision."""
