"""One run from its prompt to a finished folder."""
