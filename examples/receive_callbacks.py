"""A receiver of callbacks: verifies each, takes each once, and lets no older news overwrite newer.

It needs aiohttp and standardwebhooks.

python -m examples.receive_callbacks whsec_… 9008      then send messages with "callback_url": "http://127.0.0.1:9008/posthaste"

The secret is one of POSTHASTE_CALLBACK_SECRETS; `make run` keeps its own in .local/callback-secret.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError


@dataclass
class Inbox:
    """What is known of each job, by its id. An application keeps both of these in its database, in one transaction."""

    secret: str
    seen: set[str] = field(default_factory=set)  # webhook-ids
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def receive(self, request: web.Request) -> web.Response:
        """Answer 2xx once the news is kept: only then will Posthaste not send it again."""
        try:
            event = Webhook(self.secret).verify(await request.read(), dict(request.headers))
        except (WebhookVerificationError, ValueError) as error:
            return web.Response(status=400, text=f"{error}\n")
        self.take(request.headers["webhook-id"], event["data"])
        return web.Response(status=204)

    def take(self, webhook_id: str, news: dict[str, Any]) -> None:
        """Keep news once, and in order: callbacks may come twice, and a retried one after a newer one."""
        known = self.jobs.get(news["id"])
        if webhook_id in self.seen or (known is not None and known["sequence"] > news["sequence"]):
            return
        self.seen.add(webhook_id)
        self.jobs[news["id"]] = news
        print(f"{news['id']} is {news['status']} ({news['sequence']})", flush=True)


def application(inbox: Inbox) -> web.Application:
    app = web.Application(client_max_size=256 * 1024)
    app.router.add_post("/posthaste", inbox.receive)
    return app


if __name__ == "__main__":
    web.run_app(application(Inbox(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]))
