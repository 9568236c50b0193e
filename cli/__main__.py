"""The `posthaste` command: its table of commands. A command's module is imported when it runs, so `--help` answers at once."""

from importlib.metadata import version
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli import end_quickly

GROUPS = {
    "Run": {
        "up": ("cli.up:up", "Run API, workers and relay, and restart each that dies."),
        "api": ("cli.processes:api", "Run one API process, or several at one port."),
        "consume": ("cli.processes:consume", "Run one worker process."),
        "relay": ("cli.processes:relay", "Run one relay process."),
        "sandbox": ("cli.sandbox:sandbox", "Run a provider with configurable faults on loopback."),
    },
    "Use": {
        "send": ("cli.send:send", "Submit one message and print its id."),
        "status": ("cli.client:status", "Print the status of a message or a report."),
        "wait": ("cli.client:wait", "Wait until a message or a report ends, and print its status."),
        "report": ("cli.report:report", "Submit a report of words per user and print its result."),
        "reports": ("cli.schedules:app", "Schedule recurring reports; list and delete schedules."),
        "callbacks": ("cli.callbacks:app", "Test and receive signed callbacks; make a secret."),
    },
    "Operate": {
        "doctor": ("cli.doctor:doctor", "Check services, schema, queues and workers. Each problem has a fix."),
        "top": ("cli.top:top", "Show rates, queues, processes and dead letters, live."),
        "dead-letters": ("cli.dead_letters:app", "List, show, requeue, discard and export failed and unknown jobs."),
        "providers": ("cli.providers:app", "List, pause and resume providers; move their queued messages."),
        "rebuild": ("cli.maintenance:rebuild", "Publish every due job whose message is lost. Safe at any time."),
    },
    "Set up": {
        "migrate": ("cli.maintenance:migrate", "Migrate the database's schema to this release's revision."),
        "rabbitmq-user": ("cli.maintenance:rabbitmq_user", "Create or update the namespace's RabbitMQ user."),
        "clients": ("cli.keys:clients_app", "Create, list and revoke API clients."),
        "keys": ("cli.keys:keys_app", "Create, list, rotate and revoke API keys."),
    },
    "Data": {
        "posts": ("cli.posts:app", "Seed, truncate and count the posts that reports read."),
        "purge": ("cli.maintenance:purge", "Delete finished jobs by age."),
        "erase": ("cli.maintenance:erase", "Delete all finished messages to one destination."),
    },
}


class LazyCommand(TyperCommand):
    """A command or a group of commands whose module is imported when it runs."""

    def __init__(self, name: str, target: str, summary: str, group: str):
        super().__init__(name, help=summary, rich_help_panel=group)
        self._target = target

    def load(self) -> TyperCommand | TyperGroup:
        """Import the module and make the command. A command without a docstring has the table's summary as its help."""
        target = resolve_name(self._target)
        app = target if isinstance(target, typer.Typer) else typer.Typer(add_completion=False)
        if app is not target:
            app.command()(target)
        command = typer.main.get_command(app)
        assert isinstance(command, TyperCommand | TyperGroup)
        command.help = command.help or self.help
        return command

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Parse the arguments of the command itself: Typer invokes the command of the context."""
        return self.load().make_context(*arguments, **extra)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"posthaste {version('posthaste')}")
        raise typer.Exit


_root = typer.Typer(name="posthaste", no_args_is_help=True)


@_root.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Posthaste accepts work over HTTP, executes it asynchronously and reports its status.

    Exit 0: done, 1: error, 2: wrong argument or option, 3 and more: named by the command.
    """


def _application() -> TyperGroup:
    command = typer.main.get_command(_root)
    assert isinstance(command, TyperGroup)
    for group, commands in GROUPS.items():
        for name, (target, summary) in commands.items():
            command.add_command(LazyCommand(name, target, summary, group))
    return command


app = _application()


def main() -> None:
    """Entry point of the script `posthaste`."""
    end_quickly()
    app()


if __name__ == "__main__":
    main()
