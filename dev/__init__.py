"""Bringing up RabbitMQ, Postgres and Redis on a developer's machine: `make services`, `stop` and `clean`.

Tests use `Instance` to start, stop, kill and freeze private instances. `dev.stack` runs temporary services for the demo, the
benchmarks and the tests. The wheel does not contain this package.
"""

from dev.errors import ServiceError
from dev.instance import Instance

__all__ = ["Instance", "ServiceError"]
