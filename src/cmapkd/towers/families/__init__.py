"""Adapters of image and text towers, one file a family; and the parts that they share."""
