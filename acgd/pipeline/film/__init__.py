"""A film of a sound: what is heard over time, a picture of each thing that is heard, and the ways
between them, with the sound as soundtrack."""
