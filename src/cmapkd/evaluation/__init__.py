"""Scores of finished models: one model, a suite of models and tasks, result files, efficiency."""
