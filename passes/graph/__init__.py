"""What a graph is made of, how it is read, measured and edited."""
