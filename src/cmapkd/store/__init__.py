"""The record store: memory-mapped shards of fixed-size records with checksums. Knows no model."""
