"""The base of all errors that a retry may resolve."""


class Transient(Exception):
    """A dependency is down, slow or busy. The same call may succeed later."""
