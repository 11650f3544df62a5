"""What the interpreter and the operating system are asked for: whole files, signals, checksums, random states, cheap objects."""
