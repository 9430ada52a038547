"""Networks that say what the coarse greys of a blurry picture were: alone, as measurements beside y, and guiding a diffusion network."""
