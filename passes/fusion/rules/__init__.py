"""What each operator makes of N branches in one tensor: a file for each kind of operator, with a table `RULES`."""
