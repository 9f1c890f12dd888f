"""Losses on the picture as it forms, and their gradients."""
