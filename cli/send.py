"""`posthaste send`: submit one message under an idempotency key, and repeat the request until the API answers."""

import re
import shlex
import sys
import time
from typing import Annotated, Any
from uuid import uuid4

import typer

from cli.client import ApiError, BaseUrl, Client, Unavailable, configured_client
from cli.terminal import AsJson, exit_on, fail, print_json, problems, say
from jobs.model import Delivery, Priority

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0


def _key(text: str | None) -> str | None:
    if text is not None and not re.fullmatch("[!-~]{1,255}", text):
        raise typer.BadParameter("must have 1 to 255 visible ASCII characters")
    return text


def send(
    destination: str,
    body: str,
    provider: Annotated[str | None, typer.Option(help="A provider's name. Default: the default provider.")] = None,
    priority: Annotated[Priority | None, typer.Option(help="The priority. Default: normal.")] = None,
    delivery: Annotated[
        Delivery | None, typer.Option(help="Retry or stop when the outcome is unknown. Default: at_least_once.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The client's own name of the message.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag. Repeatable.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A text of the metadata. Repeatable.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="The URL that receives every final status.")] = None,
    key: Annotated[str | None, typer.Option(callback=_key, help="The idempotency key. Default: a random one.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to repeat the request while it gets no answer, 429 or 503.")
    ] = 30,
    url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Submit one message and print its id. A request without an answer is repeated under the same idempotency key.

    Exit 0: accepted, 1: rejected, 3: no answer within the timeout. The message may have been accepted.
    """
    fields = {
        "provider": provider,
        "priority": priority,
        "delivery": delivery,
        "reference": reference,
        "tags": tag,
        "metadata": dict(map(_pair, metadata or [])) or None,
        "callback_url": callback_url,
    }
    options = {name: value for name, value in fields.items() if value is not None}
    message: dict[str, Any] = {"destination": destination, "body": body, "key": key or uuid4().hex, **options}
    with exit_on(ApiError):
        try:
            accepted = _repeat(configured_client(url), message, timeout)
        except (Unavailable, KeyboardInterrupt) as error:
            hint = "the message may have been accepted; within 24 hours, this command repeats it safely:"
            command = shlex.join(["posthaste", "send", *([] if key else ["--key", message["key"]]), *sys.argv[2:]])
            fail(f"{str(error) or 'interrupted'}\n{hint}\n  {command}", 3)
    if as_json:
        print_json(accepted)
    else:
        say(accepted["id"])


def _repeat(client: Client, message: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Submit until the API answers. Raises `Unavailable` if the next try would begin after `seconds`."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while True:
        try:
            return client.send(**message)
        except Unavailable as error:
            wait = max(pause, error.retry_after_seconds)
            if time.monotonic() + wait > deadline:
                raise
            if pause == FIRST_PAUSE_SECONDS:
                say(f"posthaste: {error}\nthe request is repeated for {seconds:g} s under the key {message['key']}", problems)
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--metadata")
    return name, value
