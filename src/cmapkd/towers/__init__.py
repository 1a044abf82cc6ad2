"""Image and text towers of every supported family, their tokenizers, and loading a model by its name."""
