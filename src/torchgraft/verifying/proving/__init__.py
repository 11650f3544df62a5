"""What is proved of each tensor that was placed, and by which means."""
