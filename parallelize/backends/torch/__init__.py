"""PyTorch itself: captured programs, eager and compiled."""
