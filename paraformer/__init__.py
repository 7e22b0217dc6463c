"""Para-Former and its serial twin as PyTorch modules, with data, training and checkpoints (arXiv 2407.21670)."""
