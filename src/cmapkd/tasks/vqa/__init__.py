"""Visual question answering: a classification head, and the official accuracy."""
