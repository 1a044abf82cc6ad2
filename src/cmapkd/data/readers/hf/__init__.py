"""Readers of Hugging Face data sets on disk."""
