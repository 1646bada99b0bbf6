"""Outputs that are no single class: several labels a row (sigmoids), and numbers (regression)."""
