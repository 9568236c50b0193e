"""The `posthaste` command."""
