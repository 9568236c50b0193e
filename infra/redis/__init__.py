"""Redis: the status cache, its notifications, and rate limits. All of its data can be lost at any moment."""
