"""The record store: memory-mapped shards of fixed-size records with checksums, independent of any model."""
