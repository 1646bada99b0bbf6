"""Render records: a run as console text, Markdown and HTML, and a sweep of runs as a leaderboard in the same."""
