"""Pickles as data: an interpreter that can't run anything, and what its descriptions of tensors stand for.

A pickle is a program for a small stack machine. Python's `pickle` runs it with everything that can be imported; here

1. `machine` steps over its opcodes. The stack, the memo and the result hold plain values of Python (numbers, texts, bytes,
   lists, dictionaries, tuples, sets) and the classes of `inert`, which have no methods that act.
2. `opcodes` has one function for each opcode. Only those that name a class, call it or set a state can ask for more, and they
   ask `globals`.
3. `globals` looks a name up in the table of `known_globals`, by the exact pair of texts. What the table lacks stays a pair
   of texts: nothing is imported. A call of it gives a `Stub` where it is a class, and is refused where it is a function.
   A name that only running code has a use for (`os.system`) is refused even if nothing calls it.
4. `known_globals` gives for a call of a name that it knows what a function there makes of the arguments: descriptions.
5. `resolver` checks every number of a description against the file before anything is allocated.

`tensor_runs` is a shortcut through what torch.save writes for each tensor, with the same outcome. A test holds that no module
here has a way out: what they import, and that they never ask for an attribute by a name out of the file.
"""
