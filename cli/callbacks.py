"""`posthaste callbacks`: try a receiver out, be one, and make a secret."""

import asyncio
import json
import signal
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from cli.terminal import console
from cli.terminal import fail as _fail
from infra.webhooks.guard import Refused
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer, check_secret, new_secret
from jobs.outcome import Outcome, Verdict
from service.settings import PREFIX, Settings, SettingsError, load

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Signed callbacks (Standard Webhooks).")

_MAX_BYTES = 256 * 1024


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        _fail(str(error))


@app.command()
def secret() -> None:
    """Print a fresh secret for POSTHASTE_CALLBACK_SECRETS."""
    print(new_secret())


@app.command()
def test(url: str) -> None:
    """Post a signed event of type `callback.test` to URL, as a worker would. Exit 0: it was taken, 1: not."""
    settings = _settings()
    if not settings.callback_secrets:
        _fail(f"{PREFIX}CALLBACK_SECRETS is not set; `posthaste callbacks secret` makes one, `make run` has one of its own")
    try:
        settings.guard().check(url)
    except Refused as error:
        _fail(f"{url}: {error}")
    outcome = asyncio.run(_post(settings, url))
    said = outcome.reason or f"http_{outcome.provider_code}"
    console.print(f"{url}: {outcome.verdict} ({said})", highlight=False, markup=False, soft_wrap=True)
    if outcome.reason == "address_refused":
        console.print(f"The name leads to an address that is not public and not in {PREFIX}CALLBACK_ALLOW.", soft_wrap=True)
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
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where to listen.")] = 9008,
    host: str = "127.0.0.1",
    secret: Annotated[str | None, typer.Option(help="The whsec_ secret; else the first of POSTHASTE_CALLBACK_SECRETS.")] = None,
    answer: Annotated[int, typer.Option(min=200, max=599, help="The status that verified callbacks are answered with.")] = 204,
) -> None:
    """Receive callbacks, verify and print each. Ctrl-C ends it."""
    known = secret or next(iter(_settings().callback_secrets), None)
    if known is None:
        _fail(f"give --secret, or set {PREFIX}CALLBACK_SECRETS; while `make run` runs, run this in its folder")
    try:
        receiver = Receiver(Webhook(check_secret(known)), answer)
        asyncio.run(receiver.serve(host, port))
    except ValueError as error:
        _fail(f"--secret: {error}", 2)
    except OSError as error:
        _fail(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port")


class Receiver:
    """Verifies and prints; answers 400 to what is not signed with the secret."""

    def __init__(self, webhook: Webhook, answer: int):
        self._webhook = webhook
        self._answer = answer
        self._seen: set[str] = set()

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = self._webhook.verify(body, dict(request.headers))
        except (WebhookVerificationError, ValueError) as error:
            console.print(f"refused: {error}", highlight=False, markup=False)
            return web.Response(status=400, text=f"{error}\n")
        id_ = request.headers["webhook-id"]
        again = " again" if id_ in self._seen else ""
        self._seen.add(id_)
        console.print(f"verified{again}: webhook-id {id_}", highlight=False, markup=False)
        console.print(f"  {json.dumps(event, ensure_ascii=False)}", highlight=False, markup=False, soft_wrap=True)
        return web.Response(status=self._answer)

    async def serve(self, host: str, port: int) -> None:
        """Answer every POST until SIGINT or SIGTERM.

        Raises:
            OSError: the port is taken.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        site = web.Application(client_max_size=_MAX_BYTES)
        site.router.add_post("/{path:.*}", self.receive)
        runner = web.AppRunner(site, handle_signals=False, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
            console.print(f"listening on http://{host}:{port}", highlight=False)
            await stop.wait()
        finally:
            await runner.cleanup()
