"""Residual stacks: chains of terms x + f(x), found in a graph by data flow."""
