"""A browser without JavaScript, for the console: cookies, pages and their forms."""

import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

_TOKEN = re.compile(r'name="csrf_token" value="([^"]*)"')


@dataclass(frozen=True)
class Answer:
    """One answer, without following redirects."""

    status: int
    text: str
    headers: Mapping[str, str]
    cookies: list[str]  # the header Set-Cookie

    @property
    def place(self) -> str:
        """Where a redirect leads."""
        return self.headers["Location"]

    @property
    def words(self) -> str:
        """The text of the page as a person reads it."""
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", self.text)))


@dataclass
class Visitor:
    """One browser. `token` is the one of the last page."""

    base: str
    session: aiohttp.ClientSession
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        answer = await self._request("GET", path, headers)
        found = _TOKEN.search(answer.text)
        self.token = found[1] if found else self.token
        return answer

    async def post(self, path: str, fields: Mapping[str, str] | None = None, *, token: str | None = None) -> Answer:
        """Send a form with the token of the last page, or another one; an empty one is left out."""
        sent = self.token if token is None else token
        return await self._request("POST", path, {}, {**(fields or {}), **({"csrf_token": sent} if sent else {})})

    async def sign_in(self, key: str) -> Answer:
        await self.get("/console/sign-in")
        answer = await self.post("/console/sign-in", {"key": key, "next": "/"})
        assert answer.status == 303, answer.words
        return answer

    async def events(self, path: str) -> AsyncIterator[tuple[str, str]]:
        """The server-sent events of a path: names and texts, until the server ends the stream."""
        async with self.session.get(self.base + path, headers=self.headers, timeout=aiohttp.ClientTimeout(60)) as response:
            assert response.status == 200, response.status
            name, lines = "", []
            async for line in response.content:
                key, _, value = line.decode().rstrip("\r\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    lines.append(value)
                elif not key and name:
                    yield name, "\n".join(lines)
                    name, lines = "", []

    async def _request(self, method: str, path: str, headers: Mapping[str, str], data: object = None) -> Answer:
        sent = {**self.headers, **headers}
        async with self.session.request(method, self.base + path, data=data, headers=sent, allow_redirects=False) as response:
            cookies = response.headers.getall("Set-Cookie", [])
            return Answer(response.status, await response.text(), response.headers.copy(), cookies)


@asynccontextmanager
async def visitor(base: str, **headers: str) -> AsyncIterator[Visitor]:
    """A browser without cookies."""
    jar = aiohttp.CookieJar(unsafe=True)  # also of addresses
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as session:
        yield Visitor(base, session, headers=headers)
