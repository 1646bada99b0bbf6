"""Attention maps, layer by layer."""
