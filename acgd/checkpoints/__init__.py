"""Weights: where they come from, what they are, and into which module they go."""
