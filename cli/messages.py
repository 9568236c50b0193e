"""`posthaste send`, `status` and `wait`: one message over HTTP, and the end of any job."""

from typing import Annotated
from uuid import UUID

import typer

from cli.client import REPORTS, ApiError, BaseUrl, Deadline, NotFound, TimeIsUp, configured_client, until_end
from cli.terminal import exit_on, say
from jobs.lifecycle import Status

SUCCESSES = {Status.SENT, Status.DELIVERED, Status.COMPLETED}


def send(
    destination: str,
    body: str,
    provider: Annotated[str | None, typer.Option(help="A provider's name. Default: the default provider.")] = None,
    url: BaseUrl = None,
) -> None:
    with exit_on(ApiError):
        say(configured_client(url).send(destination, body, provider)["id"])


def status(id: UUID, url: BaseUrl = None) -> None:
    with exit_on(ApiError):
        say(configured_client(url).status(id))


def wait(id: UUID, timeout: Deadline = 3600.0, url: BaseUrl = None) -> None:
    """Wait until a message or a report ends, and print its status. Exit 0: success, 1: failure, 3: timeout."""
    client, path = configured_client(url), f"{REPORTS}/{id}"
    with exit_on(ApiError), exit_on(TimeIsUp, code=3):
        try:
            client.call(path)
        except NotFound:
            path = f"/messages/{id}"
        status = Status(until_end(lambda: client.call(path), timeout)["status"])
    say(status)
    raise typer.Exit(0 if status in SUCCESSES else 1)
