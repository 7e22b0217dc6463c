"""Schedules applied to stacks, and what a refit changes in them."""
