"""Webhooks: URLs that clients name are called, guarded and signed."""
