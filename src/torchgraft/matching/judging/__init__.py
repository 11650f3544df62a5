"""How sure a pair is: what separates it from every rival, and what it may be called."""
