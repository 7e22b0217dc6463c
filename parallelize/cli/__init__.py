"""The commands: what they are called with, what they print, with which code they end."""
