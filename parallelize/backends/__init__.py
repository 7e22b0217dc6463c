"""Backends run a compiled model: one file for each, imported where it is used."""
