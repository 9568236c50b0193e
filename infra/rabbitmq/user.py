"""A RabbitMQ user that is limited to one namespace, created through the management API. Idempotent; resets the password."""

import base64
import json
import time
import urllib.error
import urllib.request
from urllib.parse import quote, unquote, urlsplit

from infra.rabbitmq.topology import permission

WAIT_SECONDS = 60.0
_CALL_SECONDS = 5.0


class UserNotCreated(Exception):
    """The user was not created; the message names the reason."""


def create_user(management_url: str, amqp_url: str, namespace: str) -> str:
    """Create or update the user; returns its name. Raises UserNotCreated: no answer within a minute, or a rejection."""
    user, administrator = urlsplit(amqp_url), urlsplit(management_url)
    if not user.username or not user.password:
        raise UserNotCreated("the AMQP URL has no user or no password")
    if user.username == administrator.username:
        raise UserNotCreated(f"the user of the AMQP URL is the administrator {user.username}; use another one")
    name, vhost = quote(unquote(user.username), safe=""), quote(unquote(user.path[1:]) or "/", safe="")
    permissions = dict.fromkeys(("configure", "write", "read"), permission(namespace))
    _put(management_url, f"/api/users/{name}", {"password": unquote(user.password), "tags": ""})
    _put(management_url, f"/api/permissions/{vhost}/{name}", permissions)
    return unquote(user.username)


def _put(management_url: str, path: str, body: dict[str, str]) -> None:
    parts = urlsplit(management_url)
    credentials = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{path}"
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="PUT")  # noqa: S310  the URL is a checked setting
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            urllib.request.urlopen(request, timeout=_CALL_SECONDS).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            raise UserNotCreated(f"PUT {path} was answered with {error.code} {error.reason}") from error
        except OSError as error:  # the broker is still starting
            if time.monotonic() > deadline:
                raise UserNotCreated(f"the management API does not answer: {error}") from error
            time.sleep(0.5)
        else:
            return
