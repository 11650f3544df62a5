"""Why two models give different outputs: where their runs part, and what explains it."""
