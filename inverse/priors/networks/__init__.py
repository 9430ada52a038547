"""Networks that are priors: ours, those of other libraries, and their conversion and quantisation."""
