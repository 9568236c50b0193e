"""The base of every error that a repeated call may overcome."""


class Transient(Exception):
    """A dependency is down, slow or busy. The same call may succeed later."""
