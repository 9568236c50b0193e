"""Every curl command of the reference page runs as it stands."""

import asyncio
import os
import re
from html import unescape
from pathlib import Path

from api.operations import OPERATIONS
from tests.support.keys import create_key, until_keys_required
from tests.support.stack import Stack

SUCCESSES = ("200", "201", "202", "204", "307")


async def _run(stack: Stack, **environment: str) -> list[str]:
    """Run the page's commands in one shell, in order; return the HTTP status of each. curl reports it on stderr."""
    async with stack.session.get(f"{stack.base}/docs") as response:
        page = await response.text()
    commands = [unescape(each) for each in re.findall(r'<pre class="curl">(.*?)</pre>', page, re.DOTALL)]
    assert len(commands) > len(OPERATIONS)
    (stack.folder / ".curlrc").write_text('silent\nwrite-out = "%{stderr}%{http_code} %{url_effective}\\n"\n')
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", "\n".join(commands),
        env={**os.environ, "CURL_HOME": str(stack.folder), **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await asyncio.wait_for(shell.communicate(), 60)
    answers = stderr.decode().splitlines()
    assert len(answers) == len(commands), answers
    return [f"{answer}: {command}" for answer, command in zip(answers, commands, strict=True)]


def _unexpected(answers: list[str]) -> list[str]:
    """The answers that are no success. The report of the page was submitted without `histogram`."""
    expected = SUCCESSES
    return [each for each in answers if each[:3] not in (("404",) if "/histogram" in each.split()[1] else expected)]


async def test_every_command_of_the_page_succeeds_without_and_with_keys(stack: Stack, tmp_path: Path) -> None:
    stack.start("reporter", "consumers", "reports")  # the page reads the events of its report before the result
    assert _unexpected(await _run(stack)) == []
    key = await create_key(stack, "reader")
    await until_keys_required(stack)
    answers = await _run(stack, POSTHASTE_API_KEY=key)
    assert _unexpected(answers) == []
    assert len({each.split()[1] for each in answers}) > 20
