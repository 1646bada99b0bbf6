"""Penalties on the student's weights that prepare it for pruning."""
