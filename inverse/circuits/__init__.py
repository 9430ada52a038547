"""Sum-product circuits over pixels, or over the codes of an autoencoder, and what they say of a half denoised image."""
