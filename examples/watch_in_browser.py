"""A web application in front of Posthaste: its page sends a message and shows its states live, through EventSource.

The browser calls this application alone, so Posthaste needs no CORS.

python -m examples.watch_in_browser http://127.0.0.1:9006 8000      then open http://127.0.0.1:8000
"""

import argparse

from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession, ClientTimeout, web

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Watch a message</title>
<style>body { font: 1rem/1.5 system-ui; max-width: 40rem; margin: 3rem auto } li:last-child { font-weight: bold }</style>
<h1>Watch a message</h1>
<form><input name="destination" value="+15550001"> <input name="body" value="Hello"> <button>Send</button></form>
<ol></ol><p></p>
<script>
const list = document.querySelector("ol"), note = document.querySelector("p")
document.querySelector("form").addEventListener("submit", async event => {
  event.preventDefault()
  list.replaceChildren()
  const body = JSON.stringify(Object.fromEntries(new FormData(event.target)))
  const answer = await fetch("messages", {method: "POST", headers: {"Content-Type": "application/json"}, body})
  const accepted = await answer.json()
  if (answer.status !== 202) { note.textContent = accepted.detail; return }
  note.textContent = "connected"
  const events = new EventSource(`messages/${accepted.id}/events`)
  let version = 0
  events.addEventListener("status", event => {
    const state = JSON.parse(event.data)
    if (state.version <= version) throw new Error("a version went back")
    version = state.version
    list.append(Object.assign(document.createElement("li"), {textContent: `version ${version}: ${state.status}`}))
    if (["sent", "failed", "unknown", "discarded"].includes(state.status)) { events.close(); note.textContent = "ended" }
  })
  events.onerror = () => note.textContent = "reconnecting…"
  events.onopen = () => note.textContent = "connected"
})
</script></html>
"""
POSTHASTE = web.AppKey("posthaste", ClientSession)


async def page(request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def send(request: web.Request) -> web.Response:
    """Forward the page's message."""
    headers = {"Content-Type": "application/json"}
    async with request.app[POSTHASTE].post("/messages", data=await request.read(), headers=headers) as answer:
        return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)


async def events(request: web.Request) -> web.StreamResponse:
    """Forward the events. After a lost connection, the browser continues after its last event."""
    headers = {name: value for name, value in request.headers.items() if name.lower() == "last-event-id"}
    try:
        async with request.app[POSTHASTE].get(f"/messages/{request.match_info['id']}/events", headers=headers) as source:
            if source.status != 200:
                return web.Response(status=source.status)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await response.prepare(request)
            await response.write(b"retry: 500\n\n")
            async for chunk in source.content.iter_any():
                await response.write(chunk)
            return response
    except ClientConnectionError:
        # The browser reconnects after an empty stream, and never after a 5xx.
        return web.Response(content_type="text/event-stream", text="retry: 500\n\n")
    except ClientPayloadError:
        return response


async def application(base: str) -> web.Application:
    app = web.Application()
    app[POSTHASTE] = ClientSession(base, timeout=ClientTimeout(total=None, sock_connect=5))

    async def close(app: web.Application) -> None:
        await app[POSTHASTE].close()

    app.on_cleanup.append(close)
    app.add_routes([web.get("/", page), web.post("/messages", send), web.get("/messages/{id}/events", events)])
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.watch_in_browser", description="Serve the page on loopback.")
    parser.add_argument("base", help="the API's URL, for example http://127.0.0.1:9006")
    parser.add_argument("port", type=int, help="for example 8000")
    options = parser.parse_args()
    web.run_app(application(options.base), host="127.0.0.1", port=options.port)
