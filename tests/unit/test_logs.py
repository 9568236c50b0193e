"""Logs: errors show no values, and a stalled reader blocks no process."""

import logging
import subprocess
import sys
import threading

import pytest
import structlog

from infra import logs


@pytest.mark.parametrize("json", [True, False])
def test_a_traceback_shows_no_local_variables(json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    try:
        logs.configure("info", json=json)
        body = "a body that nobody may read"
        try:
            raise ZeroDivisionError(len(body))
        except ZeroDivisionError as error:
            structlog.get_logger().error("request.failed", exc_info=error)
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=ZeroDivisionError())
        logging.getLogger().handlers[0].flush()
    finally:
        logging.getLogger().handlers, logging.getLogger().level = handlers, level
        structlog.reset_defaults()
    output = capsys.readouterr().err
    assert "request.failed" in output and "ZeroDivisionError" in output
    assert "nobody may read" not in output.replace('body = "a body that nobody may read"', "")
    assert "Exception in ASGI application" not in output


LOGGING = """
import logging, sys, structlog
from infra import logs
logs.configure("info", json=False)
for n in range(12_000):
    structlog.get_logger().info("a.line", n=n, padding="x" * 50)
print("done", flush=True)
sys.stdin.read()
logging.getLogger().handlers[0].flush(60)
structlog.get_logger().info("the.last")
"""


def test_a_stalled_reader_of_logs_stops_no_process_and_reads_how_many_lines_were_dropped() -> None:
    command = [sys.executable, "-c", LOGGING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        deadline = threading.Timer(90, process.kill)
        deadline.start()
        try:
            assert process.stdout.readline() == "done\n"  # its standard error was not read
            _, output = process.communicate("", timeout=90)
        finally:
            deadline.cancel()
            process.kill()
    assert "log.dropped" in output and "the.last" in output
    assert output.index("n=0 ") < output.index("n=1 ")
