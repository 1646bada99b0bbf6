"""Contrastive representation distillation."""
