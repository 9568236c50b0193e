"""Webhooks: signed requests to the callback URLs of clients, guarded against SSRF."""
