"""A model in any form becomes a captured, accepted and clean program."""
