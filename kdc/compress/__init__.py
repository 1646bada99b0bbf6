"""Passes: one compression step a file."""
