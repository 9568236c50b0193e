"""A private RabbitMQ that is killed in its first boot starts again."""

import time
from pathlib import Path

import pytest

from dev import Instance, ServiceError
from dev.rabbitmq import FIRST_BOOT, RABBITMQ


@pytest.mark.skipif(not RABBITMQ.installed(), reason="RabbitMQ runs in a container here; there is no private instance")
def test_a_node_that_was_killed_while_it_made_its_tables_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    instance = Instance.of("rabbitmq", tmp_path)
    instance.report = said.append
    with monkeypatch.context() as patched:
        patched.setattr(RABBITMQ, "wait_until_ready", lambda *_, **__: _wait_for_tables(instance))
        with pytest.raises(ServiceError, match="tables exist in part"):
            instance.start()
    instance.kill()
    try:
        instance.start()
        assert any("its first boot was interrupted" in line for line in said)
        assert not (instance.place().folder / FIRST_BOOT).exists()
        said.clear()
        instance.kill()
        instance.start()
        assert not any("its first boot was interrupted" in line for line in said)
    finally:
        instance.kill()
        instance.stop()
        instance.home.delete()


def _wait_for_tables(instance: Instance) -> None:
    """Return as soon as the node's data exists in part. RabbitMQ 3 never boots again if it is killed now."""
    node, deadline = instance.place().folder / "mnesia/node", time.monotonic() + 60
    made = "schema.DAT" if RABBITMQ.version().startswith("RabbitMQ 3.") else "*"
    while not list(node.glob(made)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    raise ServiceError("tables exist in part")
