"""Worker processes that decode images for the training step."""
