"""The `posthaste` command's composition root. Each command imports what it needs, so that the small ones answer at once."""

import asyncio
import json
import os
import random
import signal
import sys
from enum import StrEnum
from typing import Annotated, NoReturn
from uuid import UUID

import typer

from cli.client import ApiError, Client
from cli.terminal import console, problems
from cli.terminal import fail as _fail
from infra.errors import Transient
from jobs.model import Kind
from service.settings import PREFIX, Settings, SettingsError, load

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Posthaste: accepts work, never loses it, does it later.")

Base = Annotated[str | None, typer.Option(help="Where the API answers; else POSTHASTE_HOST and POSTHASTE_PORT.")]
SANDBOX_PORT = 9007
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # to a group of commands that is imported when used


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        _fail(str(error))


def _client(url: str | None) -> Client:
    host, port = os.environ.get(f"{PREFIX}HOST", "127.0.0.1"), os.environ.get(f"{PREFIX}PORT", "9006")
    return Client(url or f"http://{host}:{port}", key=os.environ.get(f"{PREFIX}API_KEY"))


def _become(*module: str) -> NoReturn:
    """Replace this process: each process of ours has a composition root of its own."""
    os.execv(sys.executable, [sys.executable, "-m", *module])  # noqa: S606


@app.command()
def api() -> None:
    """Run one API process."""
    _become("api")


@app.command()
def consume(
    kinds: Annotated[list[str] | None, typer.Argument(help="What to work on: messages, reports, callbacks.")] = None,
) -> None:
    """Run one worker process, for all kinds of jobs or for those named."""
    known = [f"{kind}s" for kind in Kind]
    if unknown := set(kinds or []) - set(known):
        _fail(f"nothing is known of {', '.join(sorted(unknown))}; there is: {', '.join(known)}", 2)
    _become("consumers", *(kinds or known))


@app.command()
def relay() -> None:
    """Run one relay process."""
    _become("consumers", "relay")


@app.command()
def up(
    consumers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    sandbox: Annotated[bool, typer.Option(help="Also run the sandbox, and send through it unless providers are set.")] = False,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65_535, help="Where the sandbox listens.")] = SANDBOX_PORT,
    first_message: Annotated[bool, typer.Option(help="Send one message and show what becomes of it.")] = False,
) -> None:
    """Run API, workers and relay in the foreground, and restart what dies."""
    from cli import up as command

    port = sandbox_port if sandbox else None
    try:
        with command.sandbox_settings(_settings(), port):
            settings = _settings()
            settings.provider_for_new_messages()
            code = command.run(settings, console, consumers=consumers, sandbox_port=port, first_message=first_message)
    except (SettingsError, command.CannotStart) as error:
        _fail(str(error))
    raise typer.Exit(code)


@app.command()
def migrate(
    with_key: Annotated[
        bool, typer.Option("--first-key", help="Where there is no API key yet, reserve one for `posthaste keys first`.")
    ] = False,
) -> None:
    """Bring the database's schema to this release's revision."""
    from cli import keys
    from infra import logs
    from infra.postgres import errors, privileges, schema

    settings = _settings()
    logs.configure("warning", json=False)
    role = privileges.role_of(settings.database_url)
    refusals = (schema.MigrationBlocked, schema.ForeignNamespace, schema.WrongEncoding, privileges.RoleMissing)
    try:
        revision = schema.migrate(settings.owner_url, settings.namespace, runtime_role=role)
        reserved = with_key and keys.reserve_first(settings)
    except (*refusals, errors.Unavailable) as error:
        _fail(str(error))
    console.print(f"migrate: the schema is at revision {revision}", highlight=False)
    if reserved:
        console.print("migrate: every request needs an API key; `posthaste keys first` shows the first one", highlight=False)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Look at everything the service needs, say what is wrong and what mends it. Exit 0: healthy, 1: not, 2: bad settings."""
    from cli import doctor as command
    from infra import logs

    try:
        settings = load()
    except SettingsError as error:
        _fail(f"{error}\nmend: correct the settings (.env.example lists them), or `make services`", 2)
    logs.configure("error", json=False)
    findings = command.run(settings)
    if as_json:
        print(json.dumps(command.as_json(findings), indent=2))
    else:
        styles = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
        for finding in findings:
            console.print(f"{finding.verdict:>8}  ", style=styles[finding.verdict], end="")
            console.print(f"{finding.subject}: {finding.detail}", highlight=False, markup=False, soft_wrap=True)
            if finding.mend:
                console.print(f"          mend: {finding.mend}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(command.exit_code(findings))


@app.command()
def rebuild() -> None:
    """Publish again what waits in the ledger and has no message on its way. Safe at any time."""
    from cli import rebuild as command
    from infra import logs

    settings = _settings()
    logs.configure("error", json=False)
    try:
        total = asyncio.run(command.rebuild(settings, lambda line: console.print(f"rebuild: {line}", highlight=False)))
    except Transient as error:
        _fail(f"{error}; run it again, or ask `posthaste doctor`")
    console.print(f"rebuild: {total} in all; a running relay publishes them", highlight=False)


@app.command()
def demo(
    count: Annotated[int, typer.Option(min=2, max=100_000, help="Messages.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the provider's faults.")] = 1,
) -> None:
    """Send messages through a failing sandbox on processes and a database of its own, and account for every one."""
    from cli import demo as command
    from cli.up import CannotStart
    from infra import logs
    from infra.postgres.errors import Unavailable
    from infra.postgres.schema import MigrationBlocked

    settings = _settings()
    logs.configure("error", json=False)
    try:
        code = command.run(settings, console, count, seed)
    except (CannotStart, Unavailable, MigrationBlocked) as error:
        _fail(str(error))
    raise typer.Exit(code)


@app.command()
def purge(
    older_than: Annotated[float, typer.Option(min=0, help="Days since they ended.")],
    kind: Annotated[list[Kind] | None, typer.Option(help="Which kinds; else all.")] = None,
) -> None:
    """Delete jobs that ended long ago, at once; failed and unknown ones stay. The relay does the same by itself."""
    from cli import retention as command
    from infra import logs

    settings = _settings()
    logs.configure("error", json=False)
    kinds = kind or list(Kind)
    try:
        total = asyncio.run(command.purge(settings, kinds, older_than, lambda line: problems.print(f"purge: {line}")))
    except Transient as error:
        _fail(f"{error}; run it again")
    console.print(f"purge: {total} jobs deleted", highlight=False)


@app.command()
def erase(
    destination: Annotated[str, typer.Option(help="Whose messages.")],
    client: Annotated[str | None, typer.Option(help="Only this client's.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete all messages to a destination that have ended, dead letters too. Exit 3: some are under way; run it again."""
    from cli import retention as command
    from infra import logs

    if not yes:
        typer.confirm(f"Delete all that was sent to {destination!r}, for good?", abort=True)
    settings = _settings()
    logs.configure("error", json=False)
    try:
        total, left = asyncio.run(command.erase(settings, destination, client))
    except Transient as error:
        _fail(f"{error}; run it again")
    console.print(f"erase: {total} jobs deleted", highlight=False)
    if left:
        _fail(f"{left} messages to it are under way; run this again when they have ended", 3)


posts_app = typer.Typer(no_args_is_help=True, help="Fill and empty the posts table that reports are about.")
app.add_typer(posts_app, name="posts")


@posts_app.command("seed")
def seed_posts(
    count: Annotated[int, typer.Option(min=1, help="Posts to append; 1,000 to 5,000 is usual, millions work.")] = 1000,
    users: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="User ids are 1 to this.")] = 100,
    words: Annotated[str, typer.Option(help="Words in a post, MIN:MAX.")] = "10:100",
    seed: Annotated[int, typer.Option(help="The same seed makes the same users and texts.")] = 1,
) -> None:
    """Append random posts."""
    from cli import posts as command
    from infra.postgres.errors import Unavailable
    from infra.postgres.posts import Posts

    try:
        command.seed(Posts(_settings().database_url), console, count, users, command.parse_range(words), seed)
    except command.BadRange as error:
        _fail(f"--words: {error}", 2)
    except Unavailable as error:
        _fail(str(error))


@posts_app.command("truncate")
def truncate_posts(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete all posts."""
    from infra.postgres.errors import Unavailable
    from infra.postgres.posts import Busy, Posts

    if not yes:
        typer.confirm("Delete all posts?", abort=True)
    try:
        Posts(_settings().database_url).truncate()
    except (Unavailable, Busy) as error:
        _fail(str(error))
    console.print("posts: none left", highlight=False)


@posts_app.command("stats")
def posts_stats() -> None:
    """Say what the table holds."""
    from infra.postgres.errors import Unavailable
    from infra.postgres.posts import Posts

    try:
        stats = Posts(_settings().database_url).stats()
    except Unavailable as error:
        _fail(str(error))
    console.print(f"posts: {stats.posts} of {stats.users} users", highlight=False)
    if stats.oldest and stats.newest:
        console.print(f"posts: from {stats.oldest:%Y-%m-%d} to {stats.newest:%Y-%m-%d}", highlight=False)


@app.command("rabbitmq-user")
def rabbitmq_user() -> None:
    """Create or update the RabbitMQ user of POSTHASTE_AMQP_URL, limited to the namespace."""
    from infra.rabbitmq.topology import permission
    from infra.rabbitmq.user import UserNotCreated, create_user

    settings = _settings()
    if settings.management_url is None:
        _fail(f"{PREFIX}MANAGEMENT_URL is not set: name an administrator's", 2)
    try:
        name = create_user(settings.management_url, settings.amqp_url, settings.namespace)
    except UserNotCreated as error:
        _fail(str(error))
    console.print(f"rabbitmq: the user {name} may use {permission(settings.namespace)}", highlight=False, markup=False)


@app.command()
def send(destination: str, body: str, provider: str | None = None, url: Base = None) -> None:
    """Submit one message; prints its id."""
    try:
        console.print(_client(url).send(destination, body, provider)["id"], highlight=False)
    except ApiError as error:
        _fail(str(error))


@app.command()
def status(id: UUID, url: Base = None) -> None:
    """Print what has become of a message."""
    try:
        console.print(_client(url).status(id), highlight=False)
    except ApiError as error:
        _fail(str(error))


Seconds = Annotated[float, typer.Option("--timeout", min=0, help="Wait for so many seconds at most.")]


@app.command()
def wait(id: UUID, timeout: Seconds = 3600.0, url: Base = None) -> None:
    """Wait until a message or a report has ended, and print how. Exit 0: well, 1: not well, 3: the time is up."""
    from cli import report as command

    try:
        status = command.wait(_client(url), id, timeout)
    except ApiError as error:
        _fail(str(error))
    except command.TimeIsUp as error:
        _fail(str(error), 3)
    console.print(status, highlight=False)
    raise typer.Exit(0 if status in command.GOOD_ENDS else 1)


class Form(StrEnum):
    """How `posthaste report` shows the result."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@app.command()
def report(
    form: Annotated[Form, typer.Option("--format", help="How the result is printed.")] = Form.TABLE,
    top: Annotated[int, typer.Option(min=1, help="Users in the table or the plot.")] = 10,
    plot: Annotated[bool, typer.Option(help="Also draw a bar for each user of the table.")] = False,
    timeout: Seconds = 3600.0,
    url: Base = None,
) -> None:
    """Submit a report of words per user, watch it, print its result. Exit 0: completed, 1: not, 3: the time is up."""
    from cli import report as command

    client = _client(url)
    try:
        state = command.run(client, problems, timeout)
        if state["status"] != "completed":
            _fail(command.why(state))
        text = client.result(UUID(state["id"]), "csv" if form is Form.CSV else "json")
    except ApiError as error:
        _fail(str(error))
    except command.TimeIsUp as error:
        _fail(f"{error}; `posthaste wait ID` returns when it is done", 3)
    if form is not Form.TABLE:
        print(text.removesuffix("\r\n"))
        return
    rows = json.loads(text)["data"]
    console.print(command.summary(rows, top), highlight=False)
    console.print(command.table(rows, top))
    if plot:
        console.print(command.plot(rows, top), highlight=False)


Share = Annotated[float, typer.Option(min=0, max=1, help="Share of requests, 0 to 1.")]


@app.command()
def sandbox(
    host: str = "127.0.0.1",
    port: int = SANDBOX_PORT,
    fail: Share = 0.0,
    fail_status: int = 500,
    slow: Share = 0.0,
    slow_seconds: float = 1.0,
    hang: Share = 0.0,
    reset: Share = 0.0,
    seed: int | None = None,
) -> None:
    """Run a provider on loopback that fails as asked and counts what it gets (GET /stats, PUT /faults)."""
    from cli.sandbox import Faults, Sandbox

    faults = Faults(fail, fail_status, slow=slow, slow_seconds=slow_seconds, hang=hang, reset=reset)

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Sandbox(host, port, faults, random.Random(seed)).serve(stop)  # noqa: S311  faults, not secrets

    try:
        asyncio.run(serve())
    except OSError as error:
        _fail(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port")


@app.command("dead-letters", context_settings=_PASSED_ON, add_help_option=False)
def dead_letters(context: typer.Context) -> None:
    """Failed and unknown jobs: list, show, requeue, discard, export. Also installed as posthaste-requeue."""
    from cli import dead_letters as command

    command.app(context.args, prog_name="posthaste dead-letters")


@app.command("providers", context_settings=_PASSED_ON, add_help_option=False)
def providers(context: typer.Context) -> None:
    """What waits for each provider: list, pause, resume, move."""
    from cli import providers as command

    command.app(context.args, prog_name="posthaste providers")


@app.command("clients", context_settings=_PASSED_ON, add_help_option=False)
def clients(context: typer.Context) -> None:
    """Who may call: create, list, revoke."""
    from cli import keys as command

    command.clients_app(context.args, prog_name="posthaste clients")


@app.command("keys", context_settings=_PASSED_ON, add_help_option=False)
def keys(context: typer.Context) -> None:
    """The keys that clients show: first, create, list, rotate, revoke."""
    from cli import keys as command

    command.keys_app(context.args, prog_name="posthaste keys")


@app.command("callbacks", context_settings=_PASSED_ON, add_help_option=False)
def callbacks(context: typer.Context) -> None:
    """Signed callbacks: test a URL, listen, make a secret."""
    from cli import callbacks as command

    command.app(context.args, prog_name="posthaste callbacks")


def main() -> None:
    """Entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
