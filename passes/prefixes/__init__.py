"""Prefixes: the network in which only the first branches of its last level are added up, and all of them at once."""
