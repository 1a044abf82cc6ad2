"""`cmapkd distill`: a run folder from its beginning to its finished student."""
