"""Dramatiq: durable queues, publisher confirms, acknowledgement after the actor returns, threads for calls that wait.

It declares its queues itself, as classic ones: it has no setting for quorum queues.

https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker (confirm_delivery)
https://dramatiq.io/guide.html#workers
"""

from uuid import uuid4

import dramatiq
import urllib3
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from redis import Redis
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.services.web import AMQP, PROVIDER, REDIS, SLOTS, STATUS_SECONDS, service, status_in_redis

broker = RabbitmqBroker(url=AMQP, confirm_delivery=True)
dramatiq.set_broker(broker)
_http = urllib3.PoolManager(maxsize=SLOTS, block=True)
_redis = Redis.from_url(REDIS)


@dramatiq.actor(queue_name="messages")
def deliver(id_: str, destination: str, body: str) -> None:
    answer = _http.request("POST", PROVIDER, json={"destination": destination, "body": body}, retries=False)
    if answer.status != 200:
        raise ConnectionError(answer.status)
    _redis.set(f"status:{id_}", "sent", ex=STATUS_SECONDS)


async def _submit(destination: str, body: str) -> str:
    id_ = str(uuid4())
    await run_in_threadpool(deliver.send, id_, destination, body)
    return id_


app = service(_submit, status_in_redis())
