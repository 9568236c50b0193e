"""An adapter: translates Posthaste's requests for a provider with another API, here a form with `To` and `Text`.

Its dependency is aiohttp.

python -m examples.provider_adapter https://provider.example/send 9009
POSTHASTE_PROVIDERS={"sms": {"url": "http://127.0.0.1:9009/message", "message_id_field": "sid", "timeout_seconds": 10}}
"""

import sys

import aiohttp
from aiohttp import web

SECONDS = aiohttp.ClientTimeout(total=8, connect=2)  # shorter than `timeout_seconds` in Posthaste


async def send(request: web.Request) -> web.Response:
    """Send one message, and answer only when the provider has answered. Its status and Retry-After are passed on."""
    message = await request.json()
    form = {"To": message["destination"], "Text": message["body"]}
    key = {"Idempotency-Key": request.headers["Idempotency-Key"]}
    try:
        async with (
            aiohttp.ClientSession(timeout=SECONDS) as session,
            session.post(request.app[URL], data=form, headers=key, allow_redirects=False) as response,
        ):
            answer = await response.json(content_type=None)
    except aiohttp.ClientConnectorError:  # surely not sent: deferred, uncharged
        return web.json_response({"error": "no connection"}, status=503, headers={"Retry-After": "5"})
    except (aiohttp.ClientError, TimeoutError, ValueError):  # perhaps sent: retried under the same key
        return web.json_response({"error": "no answer"}, status=504)
    if response.ok and not answer["ok"]:  # this provider rejects with 200
        return web.json_response({"error": answer["reason"]}, status=400)
    wait = {name: value for name, value in response.headers.items() if name.lower() == "retry-after"}
    return web.json_response({"sid": answer.get("sid")}, status=response.status, headers=wait)


URL = web.AppKey("url", str)


def application(url: str) -> web.Application:
    app = web.Application()
    app[URL] = url
    app.router.add_post("/message", send)
    return app


if __name__ == "__main__":
    web.run_app(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
