"""The machine: its GPU, its clock, its libraries and their settings."""
