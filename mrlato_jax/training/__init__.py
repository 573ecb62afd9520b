"""A training run: its stages, what it learns from, its folder, checkpoints and processes."""
