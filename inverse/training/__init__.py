"""Training of image priors, and the training loop that plug-ins extend."""
