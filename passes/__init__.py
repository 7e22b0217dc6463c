"""Graph passes: torch.fx graph in, torch.fx graph out. Knows torch.fx and networkx; no files, no commands."""
