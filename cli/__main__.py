"""The `posthaste` command: its table of commands. A command's module is imported when it runs, so `--help` answers at once."""

from pkgutil import resolve_name
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "api": ("cli.processes:api", "Run one API process."),
    "consume": ("cli.processes:consume", "Run one worker process."),
    "relay": ("cli.processes:relay", "Run one relay process."),
    "up": ("cli.up:up", "Run API, workers and relay, and restart each that dies."),
    "migrate": ("cli.maintenance:migrate", "Migrate the database's schema to this release's revision."),
    "doctor": ("cli.doctor:doctor", "Check services, schema, queues and workers. Each problem has a fix."),
    "rebuild": ("cli.maintenance:rebuild", "Publish every due job whose message is lost. Safe at any time."),
    "purge": ("cli.maintenance:purge", "Delete finished jobs by age."),
    "erase": ("cli.maintenance:erase", "Delete all finished messages to one destination."),
    "posts": ("cli.posts:app", "Seed, truncate and count the posts that reports read."),
    "rabbitmq-user": ("cli.maintenance:rabbitmq_user", "Create or update the namespace's RabbitMQ user."),
    "send": ("cli.client:send", "Submit one message and print its id."),
    "status": ("cli.client:status", "Print a message's status."),
    "wait": ("cli.client:wait", "Wait until a message or a report ends, and print its status."),
    "report": ("cli.report:report", "Submit a report of words per user and print its result."),
    "sandbox": ("cli.sandbox:sandbox", "Run a provider with configurable faults on loopback."),
    "dead-letters": ("cli.dead_letters:app", "Count, show, requeue, discard and export failed and unknown jobs."),
    "providers": ("cli.providers:app", "List, pause and resume providers; move their queued messages."),
    "clients": ("cli.keys:clients_app", "Create, list and revoke API clients."),
    "keys": ("cli.keys:keys_app", "Create, list, rotate and revoke API keys."),
    "callbacks": ("cli.callbacks:app", "Test and receive signed callbacks; make a secret."),
}


class LazyCommand(TyperCommand):
    """A command or a group of commands whose module is imported when it runs."""

    def __init__(self, name: str, target: str, summary: str):
        super().__init__(name, help=summary)
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


app = TyperGroup(
    name="posthaste",
    commands=[LazyCommand(name, target, summary) for name, (target, summary) in COMMANDS.items()],
    no_args_is_help=True,
    help="Posthaste accepts work over HTTP, executes it asynchronously and reports its status.",
)


def main() -> None:
    """Entry point of the script `posthaste`."""
    app()


if __name__ == "__main__":
    main()
