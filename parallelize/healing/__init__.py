"""Training a rewritten network on what its serial twin computes."""
