"""Reader of WebDataset tar shards."""
