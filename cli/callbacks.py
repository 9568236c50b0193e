"""`posthaste callbacks`: test a receiver of callbacks, run one, make a secret."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from cli.sandbox import OTHER_PORT
from cli.session import read_settings
from cli.terminal import AsJson, exit_on, fail, print_json, say
from infra.webhooks.guard import Refused
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer, check_secret, new_secret
from jobs.outcome import Outcome, Verdict
from service.settings import PREFIX, Settings

app = typer.Typer(no_args_is_help=True, add_completion=False)

_MAX_BYTES = 256 * 1024


@app.command()
def secret() -> None:
    """Print a new secret for POSTHASTE_CALLBACK_SECRETS."""
    print(new_secret())


@app.command()
def test(url: str, as_json: AsJson = False) -> None:
    """Post a signed event of type `callback.test` to URL, as a worker does. Exit 0: accepted, 1: not accepted."""
    settings = read_settings()
    if not settings.callback_secrets:
        fail(f"{PREFIX}CALLBACK_SECRETS is not set; `posthaste callbacks secret` makes one, `make run` has its own")
    with exit_on(Refused, subject=f"{url}: "):
        settings.guard().check(url)
    outcome = asyncio.run(_post(settings, url))
    if as_json:
        print_json({"url": url, "verdict": outcome.verdict, "reason": outcome.reason, "http_status": outcome.provider_code})
    else:
        say(f"{url}: {outcome.verdict} ({outcome.reason or f'http_{outcome.provider_code}'})")
        if outcome.reason == "address_refused":
            say(f"The name resolves to an address that is neither public nor in {PREFIX}CALLBACK_ALLOW.")
    raise typer.Exit(0 if outcome.verdict is Verdict.ACCEPTED else 1)


async def _post(settings: Settings, url: str) -> Outcome:
    signer = Signer(settings.callback_secrets)
    sender = CallbackSender(settings.guard(), signer, timeout_seconds=settings.callback_timeout_seconds, concurrency=1)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"type": "callback.test", "timestamp": now, "data": {"sequence": 0}}
    try:
        return await sender.send(url, f"test-{uuid4()}", json.dumps(event))
    finally:
        await sender.close()


@app.command()
def listen(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port.")] = 9008,
    host: Annotated[str, typer.Option(help="The address.")] = "127.0.0.1",
    secret: Annotated[
        str | None, typer.Option(help="The whsec_ secret. Default: the first of POSTHASTE_CALLBACK_SECRETS.")
    ] = None,
    answer: Annotated[int, typer.Option(min=200, max=599, help="The status of answers to verified callbacks.")] = 204,
) -> None:
    """Receive callbacks until Ctrl-C. Verify and print each one."""
    key = secret or next(iter(read_settings().callback_secrets), None)
    if key is None:
        fail(f"pass --secret, or set {PREFIX}CALLBACK_SECRETS; with `make run`, run this command in its folder")
    with exit_on(ValueError, subject="--secret: ", code=2):
        webhook = Webhook(check_secret(key))
    site = web.Application(client_max_size=_MAX_BYTES)
    site.router.add_post("/{path:.*}", _receiver(webhook, answer))
    with exit_on(OSError, subject=f"cannot listen on {host}:{port}: ", hint=OTHER_PORT):
        web.run_app(
            site,
            host=host,
            port=port,
            access_log=None,
            shutdown_timeout=0.5,
            print=lambda _: say(f"listening on http://{host}:{port}"),
        )


def _receiver(webhook: Webhook, answer: int) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Verifies and prints callbacks. Callbacks with an invalid signature get 400."""
    ids: set[str] = set()

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = webhook.verify(body, dict(request.headers))
        except (WebhookVerificationError, ValueError) as error:
            say(f"rejected: {error}")
            return web.Response(status=400, text=f"{error}\n")
        id_ = request.headers["webhook-id"]
        say(f"verified{' again' if id_ in ids else ''}: webhook-id {id_}")
        ids.add(id_)
        say(f"  {json.dumps(event, ensure_ascii=False)}")
        return web.Response(status=answer)

    return receive
