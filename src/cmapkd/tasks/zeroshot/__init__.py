"""Zero-shot classification by class prompts."""
