"""Image-text retrieval: recall@k under the published protocols."""
