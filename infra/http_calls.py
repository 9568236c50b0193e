"""What an outgoing HTTP call that got no answer came to: for providers and for receivers of callbacks alike."""

import aiohttp

from jobs.outcome import Outcome, Verdict


def outcome_of(error: aiohttp.ClientError | TimeoutError) -> Outcome:
    """No connection: surely not sent. A timeout or a reset after that: unknown, it may have been sent."""
    match error:
        case aiohttp.ClientSSLError():
            return Outcome(Verdict.RETRYABLE, "tls_failed", surely_not_sent=True)
        case aiohttp.ClientConnectorError():
            return Outcome(Verdict.RETRYABLE, "no_connection", surely_not_sent=True)
        case aiohttp.ConnectionTimeoutError():
            return Outcome(Verdict.RETRYABLE, "connect_timeout", surely_not_sent=True)
        case TimeoutError():
            return Outcome(Verdict.UNKNOWN, "timeout")
    return Outcome(Verdict.UNKNOWN, "connection_lost")
