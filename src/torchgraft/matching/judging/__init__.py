"""How sure a pair is: its lead over every rival (`judge`), and the certainty that follows from it (`certainty`)."""
