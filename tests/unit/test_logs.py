"""What an error may leave in the log: where it was, and none of the values that were there."""

import logging

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
    finally:
        logging.getLogger().handlers, logging.getLogger().level = handlers, level
        structlog.reset_defaults()
    said = capsys.readouterr().err
    assert "request.failed" in said and "ZeroDivisionError" in said
    assert "nobody may read" not in said.replace('body = "a body that nobody may read"', "")
    assert "Exception in ASGI application" not in said
