"""Pickles as data: an interpreter that can't run anything, and what its names and descriptions stand for."""
