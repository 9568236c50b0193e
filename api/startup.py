"""The start of an API process: it waits for Postgres, a compatible schema, and the API keys."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import structlog

from api.callers import Keyring, NoKeys
from infra.postgres import compatibility
from infra.postgres.pool import DatabasePool
from service.settings import Settings

log = structlog.get_logger()

CHECK_SECONDS = 0.8
_NO_KEYS = (
    "There are no API keys, and other machines can reach POSTHASTE_HOST {host}. Create a key (`posthaste clients create NAME`, "
    "then `posthaste keys create NAME`), listen on 127.0.0.1, or set POSTHASTE_AUTH=off."
)


def may_be_open(settings: Settings) -> bool:
    """Whether requests need no key while there is none: authentication is off, or only this machine reaches the API."""
    try:
        return settings.auth == "off" or settings.host == "localhost" or ip_address(settings.host).is_loopback
    except ValueError:  # another host name
        return False


class Startup:
    """`waiting_for` is the reason why the process has not started; "" afterwards. `fatal` ends the process."""

    def __init__(self, pool: DatabasePool, keyring: Keyring, settings: Settings, fatal: Callable[[Exception], None]):
        self._pool = pool
        self._keyring = keyring
        self._settings = settings
        self._fatal = fatal
        self.waiting_for = "the first connection"

    async def run(self) -> None:
        """Return once the process has started, or cannot start."""
        try:
            await compatibility.wait_until_fit(self._pool, self._settings.namespace, self._wait_for)
            await self._require_keys()
        except (compatibility.SchemaTooOld, compatibility.ForeignNamespace, NoKeys) as error:
            self._fatal(error)
        else:
            self._wait_for("")
            log.info("api.ready", host=self._settings.host, port=self._settings.port)

    def _wait_for(self, reason: str) -> None:
        self.waiting_for = reason

    async def _require_keys(self) -> None:
        """Wait until the keyring knows whether there are keys.

        Raises:
            NoKeys: there are none, and the API may not be open.
        """
        while self._keyring.required is None:
            await self._keyring.refresh()
            await asyncio.sleep(0 if self._keyring.required is not None else CHECK_SECONDS)
        if self._keyring.required:
            return
        if not may_be_open(self._settings):
            raise NoKeys(_NO_KEYS.format(host=self._settings.host))
        if self._settings.auth == "auto":
            log.warning("api.open", reason="there are no keys", effect="every process on this machine may call the API")
