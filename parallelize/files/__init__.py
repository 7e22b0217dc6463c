"""Files and directories that are whole or not there."""
