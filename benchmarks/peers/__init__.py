"""Posthaste beside its peers: the same work, the same servers, the same load. `make bench ONLY=peers`."""
