"""Matching the derivative of the output with respect to the input."""
