"""Clean-up: same numbers, each operator in one form."""
