"""`python -m api`: one API process."""

import sys

import uvicorn

from api.app import Api
from infra import logs
from infra.settings import SettingsError, load


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 where the settings or the schema do not fit, with the reason on standard error."""
    try:
        settings = load()
        logs.configure(settings.log_level, json=settings.log_format == "json")
        failures: list[Exception] = []

        def fatal(error: Exception) -> None:
            failures.append(error)
            server.should_exit = True

        app = Api(settings, fatal).build()
    except SettingsError as error:
        print(f"posthaste api: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
    )
    server = uvicorn.Server(config)
    server.run()
    for failure in failures:
        print(f"posthaste api: {failure}", file=sys.stderr)
    return 1 if failures or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
