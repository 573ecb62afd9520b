"""A training run: stages, training data, run folder, checkpoints and processes."""
