"""`parallelize plan`: schedules of many depths, what they cost and gain, and which terms need which."""
