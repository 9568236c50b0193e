"""Providers of messages. They are expected to be slow, to fail and to time out."""
