"""The diffusion process, its samplers and what guides them."""
