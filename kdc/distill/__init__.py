"""Losses, teacher signals, batches and the one training loop."""
