"""The branches of sums spread over the ranks of a process group."""
