"""Tensors before they are values: shape, element type, and how their bytes are had on request."""
