"""A run: its config and name, its folder, the records in it."""
