"""Names as texts: canonical words, prefixes, lost dots, and the caller's rules."""
