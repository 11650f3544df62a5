"""Files: one descriptor from check to use, windows into it, and the names by which files mention each other."""
