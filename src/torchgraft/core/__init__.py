"""Nouns and errors: what is known and what was decided, as frozen values. Standard library only."""
