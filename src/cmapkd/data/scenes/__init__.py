"""The built-in world: synthetic scenes with captions, questions, boxes and hard negatives."""
