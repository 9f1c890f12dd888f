"""From noise to a picture, a step at a time."""
