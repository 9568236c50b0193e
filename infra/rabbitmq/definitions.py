"""The topology as RabbitMQ's definitions file, for operators that prepare a broker by import. `make definitions` writes it.

No process reads the file: each process declares the same topology itself.
"""

import json
import sys

from infra.rabbitmq.topology import Topology, describe


def definitions(topology: Topology, vhost: str = "/") -> dict[str, list[dict[str, object]]]:
    """Exchanges, queues and bindings in the shape of RabbitMQ's `GET /api/definitions`."""
    durable = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "exchanges": [
            {"name": name, **durable, "type": "direct", "internal": False, "arguments": {}} for name in topology.exchanges
        ],
        "queues": [{"name": spec.name, **durable, "arguments": dict(spec.arguments)} for spec in topology.queues],
        "bindings": [
            {
                "source": spec.exchange,
                "vhost": vhost,
                "destination": spec.name,
                "destination_type": "queue",
                "routing_key": spec.logical,
                "arguments": {},
            }
            for spec in topology.queues
        ],
    }


if __name__ == "__main__":
    json.dump(definitions(describe("posthaste", ["sandbox"])), sys.stdout, indent=2)
    sys.stdout.write("\n")
