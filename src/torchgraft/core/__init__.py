"""Nouns and errors, and what all stages share. Standard library only."""
