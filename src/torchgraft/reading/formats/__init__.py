"""One module for each format of a single file."""
