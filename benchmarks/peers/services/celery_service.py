"""Celery: a durable quorum queue, publisher confirms, late acknowledgement, threads for calls that wait.

https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html (quorum queues, confirms)
https://docs.celeryq.dev/en/stable/userguide/optimizing.html (late acknowledgement, prefetch, pool of connections)
https://docs.celeryq.dev/en/stable/userguide/concurrency/index.html (the pool of greenlets reads a message every 88 ms in 5.7)
"""

from uuid import uuid4

import urllib3
from celery import Celery
from redis import Redis
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.services.web import AMQP, PROVIDER, REDIS, SLOTS, STATUS_SECONDS, service, status_in_redis

tasks = Celery("messages", broker=AMQP)
tasks.conf.update(
    broker_pool_limit=SLOTS,
    broker_transport_options={"confirm_publish": True},
    task_default_queue="messages",
    task_default_queue_type="quorum",
    task_acks_late=True,
    task_ignore_result=True,  # the result backend of Redis subscribes to a channel for each task
    worker_prefetch_multiplier=2,
)
_http = urllib3.PoolManager(maxsize=SLOTS, block=True)
_redis = Redis.from_url(REDIS)


@tasks.task(name="deliver", autoretry_for=(urllib3.exceptions.HTTPError, ConnectionError), retry_backoff=True)
def deliver(id_: str, destination: str, body: str) -> None:
    answer = _http.request("POST", PROVIDER, json={"destination": destination, "body": body}, retries=False)
    if answer.status != 200:
        raise ConnectionError(answer.status)
    _redis.set(f"status:{id_}", "sent", ex=STATUS_SECONDS)


async def _submit(destination: str, body: str) -> str:
    id_ = str(uuid4())
    await run_in_threadpool(deliver.apply_async, (id_, destination, body), task_id=id_)
    return id_


app = service(_submit, status_in_redis())
