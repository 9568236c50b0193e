"""Connections to RabbitMQ that are collected: none closes itself in a thread without an event loop."""

import gc
import threading
import warnings

from yarl import URL

from infra.rabbitmq.connection import _Connection


async def test_a_connection_that_is_collected_in_a_thread_leaves_no_unfinished_close() -> None:
    connections = [_Connection(URL("amqp://127.0.0.1:9/"))]  # as after a failed attempt to connect
    with warnings.catch_warnings(record=True) as logged:
        warnings.simplefilter("always")
        thread = threading.Thread(target=connections.clear)
        thread.start()
        thread.join()
        gc.collect()
    assert [str(each.message) for each in logged if "never awaited" in str(each.message)] == []
