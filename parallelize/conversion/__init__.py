"""`parallelize convert`: a schedule is chosen, written with its evidence, measured and reported."""
