"""What a person reads while something runs."""
