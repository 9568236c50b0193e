"""One run of schemathesis with all its checks, against a private service that requires a key."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.support.keys import create_key, until_keys_required
from tests.support.receiver import SECRET
from tests.support.stack import Stack

# Nothing is to be refused because there was much of it; and callbacks are on, so that their field is there.
SETTINGS = {
    "rate_per_key": "100000/second",
    "rate_per_address": "100000/second",
    "callback_secrets": f'["{SECRET}"]',
    "callback_timeout_seconds": "1",
}
ROOT = Path(__file__).parents[2]


async def fuzz(stack: Stack, *options: str) -> "subprocess.CompletedProcess[str]":
    """Call every operation of the stack; exit code 0 means that every check passed."""
    stack.start("others", "consumers", "reports", "callbacks")  # so that every stream ends
    key = await create_key(stack, "fuzz")
    await until_keys_required(stack)
    (stack.folder / "schemathesis.toml").write_text(f'[auth.openapi.key]\nbearer = "{key}"\n')
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{stack.base}/openapi.json", "--checks", "all"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return await asyncio.to_thread(
        subprocess.run,
        [*command, "--continue-on-failure", "--request-timeout", "30", *options],
        cwd=stack.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
