"""`parallelize bench` and `compare`: networks in any form side by side, their latencies and their outputs."""
