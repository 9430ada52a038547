"""Checks of correctness.

Methods against exact posteriors, calibration from ground truths, and priors against the identities
of denoisers.
"""
