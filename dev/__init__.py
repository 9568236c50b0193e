"""Bringing up RabbitMQ, Postgres and Redis for this checkout: `make services` and `make stop`.

Standard library only, as it runs before anything is installed. Tests use `Instance` to start, stop and hurt private
instances.
"""

from dev.errors import ServiceError
from dev.instance import Instance

__all__ = ["Instance", "ServiceError"]
