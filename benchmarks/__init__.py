"""Measurements of the running service. Each compares two results of one run."""
