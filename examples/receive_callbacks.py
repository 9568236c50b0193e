"""A receiver of callbacks: verifies each, records each once, and ignores stale ones.

Its dependencies are aiohttp and standardwebhooks.

python -m examples.receive_callbacks whsec_… 9008      then send messages with "callback_url": "http://127.0.0.1:9008/posthaste"

The secret is one of POSTHASTE_CALLBACK_SECRETS; `make run` keeps its own in .local/callback-secret.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError


@dataclass
class Inbox:
    """The last callback of each job, by the job's id. An application keeps both fields in its database, in one transaction."""

    secret: str
    webhook_ids: set[str] = field(default_factory=set)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def receive(self, request: web.Request) -> web.Response:
        """Record the callback, then answer 2xx: Posthaste retries every other answer."""
        try:
            event = Webhook(self.secret).verify(await request.read(), dict(request.headers))
        except (WebhookVerificationError, ValueError) as error:
            return web.Response(status=400, text=f"{error}\n")
        self.record(request.headers["webhook-id"], event["data"])
        return web.Response(status=204)

    def record(self, webhook_id: str, job: dict[str, Any]) -> None:
        """Record a callback unless it is a duplicate or stale. A retried callback may arrive after a newer one."""
        last = self.jobs.get(job["id"])
        if webhook_id in self.webhook_ids or (last is not None and last["sequence"] > job["sequence"]):
            return
        self.webhook_ids.add(webhook_id)
        self.jobs[job["id"]] = job
        print(f"{job['id']} is {job['status']} ({job['sequence']})", flush=True)


def application(inbox: Inbox) -> web.Application:
    app = web.Application(client_max_size=256 * 1024)
    app.router.add_post("/posthaste", inbox.receive)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.receive_callbacks", description="Receive callbacks on loopback.")
    parser.add_argument("secret", help="whsec_…, one of POSTHASTE_CALLBACK_SECRETS")
    parser.add_argument("port", type=int, help="for example 9008")
    options = parser.parse_args()
    web.run_app(application(Inbox(options.secret)), host="127.0.0.1", port=options.port)
