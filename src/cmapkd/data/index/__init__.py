"""The index of a large data set: its columns in files, built once and mapped by every process."""
