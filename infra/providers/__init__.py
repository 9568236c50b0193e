"""Providers: who really sends a message. Slow, failing and timing out is their normal state."""
