"""What speaks against pairs that fit by themselves, seen from what all of them leave over: one rule for each reason."""
