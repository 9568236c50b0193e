"""The page of clients and API keys: create, rotate and revoke. A key is shown once, in the answer that creates it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS
from api.callers import caller_of
from api.console.pages import Pages, see_other
from api.problems import Problem
from infra.keys import CLIENT_NAME, DEFAULT_SCOPES, NewKey, Scope, new_key
from infra.postgres.api_keys import RESERVED, ApiKeyStore

log = structlog.get_logger()

PATH = "/console/keys"
DAY = 86_400.0
_MOST_DAYS = 3650
_MOST_HOURS = 720
_CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class KeyPages:
    """The endpoints of clients and keys. Every process knows a new or revoked key within a second."""

    pages: Pages
    store: ApiKeyStore

    async def show(self, request: Request) -> Response:
        return await self._page(request)

    async def create_client(self, request: Request) -> Response:
        """Create a client. A repeated form is a fault that changes nothing."""
        name = (await _form(request)).get("name", "").strip()
        if not CLIENT_NAME.fullmatch(name):
            return await self._page(request, 422, fault=f"A client's name matches {CLIENT_NAME.pattern}.")
        if not await self.store.create_client(name, _CALL_SECONDS):
            return await self._page(request, 409, fault=f"The client {name} exists already.")
        log.info("client.created", client=name, by=caller_of(request).prefix)
        return see_other(PATH)

    async def create(self, request: Request) -> Response:
        """Create a key, and show it once."""
        form, multi = await _form(request), await request.form()
        scopes = [scope for scope in Scope if scope in multi.getlist("scope")]
        if not scopes:
            return await self._page(request, 422, fault="Choose at least one scope.")
        days = _number(form.get("days", ""), _MOST_DAYS)
        is_first, new = not await self.store.any(READ_SECONDS), new_key()
        seconds = days * DAY if days else None
        if not await self.store.create_key(form.get("client", ""), new, scopes, seconds, _CALL_SECONDS):
            return await self._page(request, 404, fault="There is no such client.")
        log.info("key.created", key=new.prefix, client=form["client"], by=caller_of(request).prefix)
        return await self._page(request, 201, new=new, is_first=is_first)

    async def rotate(self, request: Request) -> Response:
        """Create a successor of a key, and show it once. The old key expires after the overlap."""
        form, new = await _form(request), new_key()
        hours = _number(form.get("hours", ""), _MOST_HOURS)
        if not await self.store.rotate(form.get("key", ""), new, hours * 3600, _CALL_SECONDS):
            return await self._page(request, 404, fault="There is no usable key with this prefix.")
        log.info("key.rotated", key=form["key"], successor=new.prefix, by=caller_of(request).prefix)
        return await self._page(request, 201, new=new)

    async def revoke(self, request: Request) -> Response:
        """Revoke a key, or all keys of a client. The first form shows the consequences, and the second one confirms them."""
        form = await _form(request)
        name, of_client = form.get("name", ""), form.get("of") == "client"
        usable = [row for row in await self.store.keys(None, READ_SECONDS) if row.usable and row.prefix != RESERVED]
        lost = [row for row in usable if name == (row.client_id if of_client else row.prefix)]
        if not lost:
            return await self._page(request, 404, fault="There is no such key to revoke.")
        if form.get("confirm") != "yes":
            question = {"name": name, "of": form.get("of", ""), "count": len(lost), "is_last": len(lost) == len(usable)}
            return await self._page(request, question=question)
        await self.store.revoke(name, _CALL_SECONDS, of_client=of_client)
        log.info("key.revoked", name=name, of_client=of_client, by=caller_of(request).prefix)
        return see_other(PATH)

    async def _page(
        self, request: Request, status: int = 200, *, new: NewKey | None = None, is_first: bool = False, **shown: Any
    ) -> Response:
        keys = [row for row in await self.store.keys(None, READ_SECONDS) if row.prefix != RESERVED]
        values = {"fault": None, "question": None, "new": new.key if new else None, "is_first": is_first, **shown}
        return self.pages.show(
            request,
            "keys.html",
            status,
            clients=await self.store.clients(READ_SECONDS),
            keys=keys,
            scopes=list(Scope),
            default_scopes=DEFAULT_SCOPES,
            own=caller_of(request).prefix,
            **values,
        )


async def _form(request: Request) -> Mapping[str, str]:
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


def _number(text: str, most: int) -> float:
    """A number of a form; 0 for an empty field. Raises a 422 problem."""
    try:
        number = float(text or 0)
    except ValueError as error:
        raise Problem(422, "validation", f"{text[:20]!r} is not a number.") from error
    if not 0 <= number <= most:
        raise Problem(422, "validation", f"A number from 0 to {most} is required.")
    return number
