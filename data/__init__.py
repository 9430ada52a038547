"""Shipped priors and photographs; see SOURCES.md for where each came from."""
