"""One training loop for every method: optimiser, checkpoints, progress, and what a run proves about itself."""
