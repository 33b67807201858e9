"""The command line: one file for each command that has something to print of its own."""
