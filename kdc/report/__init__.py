"""Render a record: console, Markdown."""
