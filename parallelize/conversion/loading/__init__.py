"""What a conversion wrote becomes a module again, in whatever runs it."""
