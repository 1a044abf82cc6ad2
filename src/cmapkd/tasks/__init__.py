"""What a model is worth: pure metrics and the thin tasks that feed them."""
