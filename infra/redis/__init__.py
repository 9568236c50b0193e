"""Redis: the status cache. Everything in it can be lost at any moment."""
