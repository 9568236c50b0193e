"""What can go wrong while bringing services up; the text of an error is the message shown, with what to do about it."""


class ServiceError(Exception):
    """Something a person has to know and act on; shown without a traceback."""


class NotReadyError(Exception):
    """The service does not answer its own protocol yet; the text says what it did instead."""


class AbandonedError(Exception):
    """Waiting was given up because the command was interrupted; what was started goes on and is recorded."""
