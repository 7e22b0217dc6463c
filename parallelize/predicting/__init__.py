"""Latency on a GPU that is not here: the kernels of a network, the numbers of a GPU, and what both make together."""
