"""What speaks for a pair: shapes, words, order, neighbours, repeats, and which equal names may be trusted."""
