"""Tasks: how a model is scored, how a head is trained for it, and its loss beside a student; one folder per task."""
