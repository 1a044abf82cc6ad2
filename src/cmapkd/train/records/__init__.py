"""Records of a run: rows of the log, the time spent waiting for data, and the ledgers of all processes."""
