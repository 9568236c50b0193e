"""`python -m api`: one API process."""

import sys
from types import FrameType

import uvicorn

from api.app import Api
from api.request_timeout import with_timeout
from infra import logs
from infra.descriptors import raise_limit
from service.settings import SettingsError, load


class _Server(uvicorn.Server):
    """Tells the API that it is ending before it waits for the requests that are under way: some of them wait, too."""

    def __init__(self, config: uvicorn.Config, api: Api):
        super().__init__(config)
        self._api = api

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._api.ending()
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 where the settings or the schema do not fit, with the reason on standard error."""
    raise_limit()
    try:
        settings = load()
        logs.configure(settings.log_level, json=settings.log_format == "json")
        failures: list[Exception] = []

        def fatal(error: Exception) -> None:
            failures.append(error)
            server.should_exit = True

        api = Api(settings, fatal)
    except SettingsError as error:
        print(f"posthaste api: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        api.build(),
        host=settings.host,
        port=settings.port,
        http=with_timeout(settings.request_timeout_seconds),
        ws="none",
        timeout_keep_alive=65,  # longer than proxies keep idle connections: whoever closes first must not be us
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
    )
    server = _Server(config, api)
    server.run()
    for failure in failures:
        print(f"posthaste api: {failure}", file=sys.stderr)
    return 1 if failures or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
