"""Image and text towers of every supported family, their tokenizers, and how a name becomes one."""
