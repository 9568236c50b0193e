"""Makes the user that POSTHASTE_AMQP_URL names, limited to the namespace: `python -m infra.rabbitmq.user`, for operators.

Asks the management API at POSTHASTE_MANAGEMENT_URL, as an administrator. Idempotent: a changed password is set anew. No process
of ours runs it but the one-shot in docker-compose.yml.
"""

import base64
import json
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote, unquote, urlsplit

from infra.rabbitmq.topology import permission
from infra.settings import PREFIX, SettingsError, load

WAIT_SECONDS = 60.0
_CALL_SECONDS = 5.0


class CannotMake(Exception):
    """The user could not be made; the message says why."""


def make(management_url: str, amqp_url: str, namespace: str) -> str:
    """Make or correct the user; returns its name.

    Raises:
        CannotMake: the management API refuses, or does not answer within a minute.
    """
    wanted, administrator = urlsplit(amqp_url), urlsplit(management_url)
    if not wanted.username or not wanted.password:
        raise CannotMake(f"{PREFIX}AMQP_URL names no user, or no password")
    if wanted.username == administrator.username:
        raise CannotMake(f"{PREFIX}AMQP_URL names the administrator {wanted.username}: name another user, to be limited")
    name, vhost = quote(unquote(wanted.username), safe=""), quote(unquote(wanted.path[1:]) or "/", safe="")
    allowed = dict.fromkeys(("configure", "write", "read"), permission(namespace))
    _put(management_url, f"/api/users/{name}", {"password": unquote(wanted.password), "tags": ""})
    _put(management_url, f"/api/permissions/{vhost}/{name}", allowed)
    return unquote(wanted.username)


def _put(management_url: str, path: str, body: dict[str, str]) -> None:
    parts = urlsplit(management_url)
    credentials = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{path}"
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="PUT")  # noqa: S310  a checked setting
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            urllib.request.urlopen(request, timeout=_CALL_SECONDS).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            raise CannotMake(f"PUT {path} was answered with {error.code} {error.reason}") from error
        except OSError as error:  # it is still starting
            if time.monotonic() > deadline:
                raise CannotMake(f"the management API does not answer: {error}") from error
            time.sleep(0.5)
        else:
            return


def main() -> int:
    """Exit 0: the user is as it should be, 1: it is not, 2: bad settings."""
    try:
        settings = load()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if settings.management_url is None:
        sys.stderr.write(f"{PREFIX}MANAGEMENT_URL is not set: name an administrator's\n")
        return 2
    try:
        name = make(settings.management_url, settings.amqp_url, settings.namespace)
    except CannotMake as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"rabbitmq: the user {name} may use {permission(settings.namespace)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
