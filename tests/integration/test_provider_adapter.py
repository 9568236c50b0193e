"""The example adapter between Posthaste and a provider with another API."""

from dataclasses import replace

from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.ports import free_port
from examples.provider_adapter import application
from infra.providers.http import HttpProvider
from jobs.outcome import Outcome, Verdict, from_http
from tests.support.receiver import receiving


async def _send(url: str) -> Outcome:
    async with TestServer(application(url)) as adapter:
        provider = HttpProvider(str(adapter.make_url("/message")), timeout_seconds=9, concurrency=1, message_id_field="sid")
        try:
            return await provider.send("+1", "hello", "key")
        finally:
            await provider.close()


async def test_the_adapter_translates_the_request_and_each_answer() -> None:
    forms: list[tuple[dict[str, object], str]] = []
    answers = [
        web.json_response({"ok": True, "sid": 7}),
        web.json_response({"ok": False, "reason": "no such number"}),
        web.json_response({}, status=429, headers={"Retry-After": "30"}),
        web.json_response({}, status=500),
        web.Response(text="not JSON"),
    ]

    async def answer(request: web.Request) -> web.Response:
        forms.append((dict(await request.post()), request.headers["Idempotency-Key"]))
        return answers[len(forms) - 1]

    async with receiving(answers=[answer] * len(answers)) as upstream:
        outcomes = [await _send(upstream.url) for _ in answers]
    accepted = Outcome(Verdict.ACCEPTED, None, 200, "7")
    expected = [accepted, from_http(400), from_http(429, None, 30), from_http(500), from_http(504)]
    assert [replace(outcome, answer=None) for outcome in outcomes] == expected
    assert outcomes[1].answer == '{"error": "no such number"}'
    assert forms == [({"To": "+1", "Text": "hello"}, "key")] * len(answers)


async def test_without_a_connection_to_the_provider_the_adapter_defers() -> None:
    assert await _send(f"http://127.0.0.1:{free_port()}") == from_http(503, None, 5)
