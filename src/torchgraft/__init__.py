"""Put the weights of a checkpoint into a PyTorch model that is not quite the one they were saved from."""
