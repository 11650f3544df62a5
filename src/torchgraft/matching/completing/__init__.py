"""What is left after solving: one tensor for many places, layers that are one here and several there."""
