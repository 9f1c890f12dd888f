"""Sounds and pictures from files."""
