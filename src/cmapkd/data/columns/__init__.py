"""Columns: texts, numbers and image references in arrays, which may be memory-mapped files."""
