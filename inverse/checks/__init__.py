"""Whether answers are right: methods against exact posteriors, calibration by truths alone, priors against the identities of denoisers."""
