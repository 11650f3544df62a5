"""What tensors hold, without running a model: compared after writing, with digests, with each other, and by themselves."""
