"""acgd: sound-guided image generation as a config-driven experiment framework."""

__version__ = "0.1.0"
