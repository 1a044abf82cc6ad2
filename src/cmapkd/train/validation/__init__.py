"""Validation of the student as it will be used: centred, with what its method serves beside it; and the facts of its card."""
