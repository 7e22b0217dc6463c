"""Width fusion: equal branches become one branch of wide operators."""
