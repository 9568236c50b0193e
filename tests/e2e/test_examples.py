"""The examples work, and continue after the API restarts."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from examples.client import Posthaste, RequestError, State
from examples.receive_callbacks import Inbox
from examples.receive_callbacks import application as receiving
from examples.watch_in_browser import application
from tests.support.receiver import SECRET
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@pytest.mark.reuses_stack
async def test_the_client_example_sends_and_waits_for_the_final_status(stack: Stack) -> None:
    async with Posthaste(stack.base) as posthaste:
        id_ = await posthaste.send("+1", "hello", key="k1")
        assert await posthaste.send("+1", "hello", key="k1") == id_
        states = [state async for state in posthaste.events(id_)]
        assert states[-1] == State(id_, 3, "sent") == await posthaste.wait(id_)
        try:
            await posthaste.send("", "hello")
        except RequestError as error:
            assert error.problem["errors"][0]["pointer"] == "/destination"
        else:
            raise AssertionError("an empty destination was taken")


async def test_the_client_hears_the_end_though_the_api_is_restarted(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=1)
    async with Posthaste(stack.base) as posthaste:
        id_ = await posthaste.send("+1", "hello")
        states: list[State] = []
        async for state in posthaste.events(id_):
            if not states:
                stack.processes["api"].signal(signal.SIGTERM)
                await stack.processes["api"].wait()
                stack.start("api", "api")
            states.append(state)
        versions = [state.version for state in states]
        assert states[-1].status == "sent" and versions == sorted(set(versions))


async def test_the_page_is_handed_its_events_across_a_restart(stack: Stack) -> None:
    """Send the requests of the page's script; a person has checked the page in a browser."""
    await stack.faults(slow=1, slow_seconds=1)
    async with TestClient(TestServer(await application(stack.base))) as client:
        assert "EventSource" in await (await client.get("/")).text()
        accepted = await (await client.post("/messages", json={"destination": "+1", "body": "hello"})).json()
        path = f"/messages/{accepted['id']}/events"
        async with client.session.get(client.make_url(path)) as response:
            while b"event: status" not in await response.content.readline():
                assert not response.content.at_eof()
            await stack.processes["api"].kill()
            await response.read()  # it ends, and does not break: the browser asks again
        stack.start("api", "api")

        async def again() -> str:
            return await _text(client.session, str(client.make_url(path)), last="1")

        assert '"sent"' in await eventually(again, lambda text: '"sent"' in text, 20)


async def test_the_receiver_takes_what_is_signed_once_and_in_order(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"callback_secrets": f'["{SECRET}"]', "callback_allow": '["127.0.0.1"]', "lease_seconds": "30"}
    async with running(services, database, broker_namespace, tmp_path, **settings) as stack:
        stack.start("teller", "consumers", "callbacks")
        inbox = Inbox(SECRET)
        async with TestServer(receiving(inbox)) as server, Posthaste(stack.base) as posthaste:
            url = str(server.make_url("/posthaste"))
            id_ = await posthaste.send("+1", "hello", callback_url=url)

            async def news() -> dict[str, Any]:
                return inbox.jobs.get(id_, {})

            assert (await eventually(news, bool, 20))["status"] == "sent"
            async with stack.session.post(url, data=b"{}") as response:
                assert response.status == 400
            inbox.record("another", {"id": id_, "status": "failed", "sequence": 2})
            inbox.record(next(iter(inbox.webhook_ids)), {"id": id_, "status": "failed", "sequence": 9})
            assert inbox.jobs[id_]["status"] == "sent"


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="there is no curl on this machine")
@pytest.mark.reuses_stack
async def test_the_same_in_curl(stack: Stack) -> None:
    command = ["sh", str(ROOT / "examples/curl.sh"), stack.base, "+1", "hello"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "it is sent" in done.stdout and '"version":3' in done.stdout
    command[-2] = "x" * 400
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "/destination" in done.stderr


@pytest.mark.parametrize("name", ["client.py", "receive_callbacks.py", "watch_in_browser.py", "redis_queue.py", "curl.sh"])
def test_without_arguments_an_example_prints_its_usage(name: str) -> None:
    command = [{"py": sys.executable, "sh": "sh"}[name.rpartition(".")[2]], str(ROOT / "examples" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and "Traceback" not in done.stderr


async def _text(session: ClientSession, url: str, last: str | None = None) -> str:
    async with session.get(url, headers={"Last-Event-ID": last} if last else {}) as response:
        return await response.text()
