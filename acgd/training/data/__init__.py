"""Pictures and sounds to train on: where they come from, and their views."""
