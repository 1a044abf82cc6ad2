"""The index of a large data set: its columns in files, built once and shared by all processes."""
