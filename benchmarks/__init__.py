"""Measurements of the running service: ratios of one run, each against a peer or itself at rest."""
