"""A trained student in formats that other programs read."""
