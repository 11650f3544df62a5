"""From evidence to pairs: sequences aligned, votes taken, pairs put in order; large models by their repeats."""
