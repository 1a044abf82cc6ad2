"""Tokenizers: texts to token ids, and the word of each token."""
