"""The networks in what a checkpoint holds, at any nesting, and the plain facts beside them."""
