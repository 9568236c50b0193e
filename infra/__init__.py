"""Adapters: a package for each external service, and modules that they share."""
