"""What is matched: tensors cut to leaves, leaves kept together as units, and what is known of the two models."""
