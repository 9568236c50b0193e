"""Errors while bringing services up; the text of each is shown to the user and names the remedy."""


class ServiceError(Exception):
    """A failure that the user must act on; shown without a traceback."""


class NotReadyError(Exception):
    """The service does not answer its own protocol yet; the text is its answer."""


class AbandonedError(Exception):
    """The command was interrupted while waiting; started processes continue and are recorded."""
