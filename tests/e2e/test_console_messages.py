"""The console's messages over real HTTP: search, one message's life, requeue and discard, isolation and hostile text."""

import html
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from api.console.search import PAGE
from api.console.views import VIEWS
from infra.keys import Scope
from tests.support.console import Answer, Visitor, visitor
from tests.support.factories import new_id
from tests.support.keys import call, create_key, until_keys_required
from tests.support.receiver import receiving
from tests.support.services import Services
from tests.support.stack import MESSAGE, Stack, running
from tests.support.waiting import eventually

LIST = "/console/messages"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7654321 * 2 }}'
EVALUATED = "15308642"


@pytest.fixture
async def browser(stack: Stack) -> AsyncIterator[Visitor]:
    async with visitor(stack.base) as opened:
        yield opened


async def _failed(stack: Stack, destination: str = "+1") -> str:
    """A dead letter; the provider works again afterwards."""
    await stack.faults(fail=1, fail_status=400)
    id_ = await stack.submit(destination)
    await stack.becomes(id_, "failed")
    await stack.faults(fail=0)
    return id_


def _version(page: Answer) -> str:
    found = re.search(r'name="version" value="(\d+)"', page.text)
    assert found, page.words
    return found[1]


def _ids(page: Answer) -> list[str]:
    return re.findall(rf'href="{LIST}/([0-9a-f-]{{36}})"', page.text)


@pytest.mark.reuses_stack
async def test_filters_find_messages_and_an_id_leads_to_its_page(stack: Stack, browser: Visitor) -> None:
    empty = await browser.get(LIST)
    assert empty.status == 200 and "Nobody has submitted a message yet" in empty.words
    first = await stack.submit("+1", reference="order", tags=["welcome"])
    second = await stack.submit("+2")
    for id_ in (first, second):
        await stack.becomes(id_, "sent")
    for query, ids in (
        ("", [second, first]),
        ("?status=&destination=&tag=&reference=&provider=&client=&after=&before=&id=", [second, first]),
        ("?status=sent", [second, first]),
        ("?status=failed", []),
        ("?destination=%2B1", [first]),
        ("?tag=welcome&reference=order", [first]),
        ("?provider=sandbox&client=default", [second, first]),
        ("?provider=other", []),
        ("?client=nobody", []),
        ("?after=2026-01-01T00:00&before=2126-01-01T00:00", [second, first]),
        ("?before=2026-01-01T00:00", []),
        ("?unknown=1", [second, first]),
    ):
        page = await browser.get(LIST + query)
        assert (page.status, _ids(page)) == (200, ids), query
        assert ("No message matches this filter" in page.words) == (not ids), query
    assert (await browser.get(f"{LIST}?id=%20{first.upper()}%20")).place == f"{LIST}/{first}"
    page = await browser.get(f"{LIST}/{first}")
    assert page.status == 200 and "Attempt 1: accepted" in page.words and "welcome" in page.words


@pytest.mark.reuses_stack
async def test_unknown_ids_and_wrong_fields_are_named(browser: Visitor) -> None:
    assert (await browser.get(f"{LIST}/{new_id()}")).status == 404
    assert (await browser.get(f"{LIST}?id={new_id()}")).status == 303
    for wrong in ("x", "0190163d-8694-439b-aea5-966c26f8ad91", HOSTILE):
        page = await browser.get(f"{LIST}?id={html.escape(wrong).replace('&', '%26').replace('#', '%23')}")
        assert page.status == 404 and "not the id of a message" in page.words
    for query, name in (
        ("?status=nothing", "status"),
        ("?after=yesterday", "after"),
        ("?before=2026-01-01T00:00%2B02:00", "before"),
        (f"?tag={'x' * 65}", "tag"),
        ("?destination=%00", "destination"),
        ("?cursor=x", "cursor"),
        ("?tag=a&tag=b", "tag"),
    ):
        page = await browser.get(LIST + query)
        assert page.status == 422 and f"{name}: " in page.words, query
    assert (await browser.get(f"{LIST}?{'x=1&' * 60}")).status == 422


@pytest.mark.reuses_stack
async def test_pages_continue_and_counts_are_shown(stack: Stack, browser: Visitor) -> None:
    sent = {await stack.submit(f"+{n}", tags=["many"]) for n in range(PAGE + 3)}
    page = await browser.get(f"{LIST}?tag=many")
    assert f"{PAGE + 3} messages" in page.words and len(_ids(page)) == PAGE
    (older,) = set(re.findall(rf'href="({LIST}\?[^"]*cursor[^"]*)"', page.text))
    rest = await browser.get(html.unescape(older))
    assert len(_ids(rest)) == 3 and {*_ids(page), *_ids(rest)} == sent
    assert "Older messages" in rest.words and f'href="{LIST}?tag=many"' in rest.text and ">Older<" not in rest.text


@pytest.mark.reuses_stack
async def test_htmx_receives_parts_of_pages(stack: Stack, browser: Visitor) -> None:
    browser.headers["HX-Request"] = "true"
    part = await browser.get(f"{LIST}?status=sent")
    assert part.status == 200 and "<html" not in part.text and "No message matches" in part.words
    assert "HX-Request" in part.headers["Vary"]
    empty = await browser.get(f"{LIST}?status=&tag=a%26b&reference=")
    assert empty.headers["HX-Push-Url"] == f"{LIST}?tag=a%26b"
    problem = await browser.get(f"{LIST}?id=x")
    assert problem.status == 404 and "<html" not in problem.text and "not the id of a message" in problem.words
    id_ = await stack.submit()
    assert (await browser.get(f"{LIST}?id={id_}")).headers["HX-Redirect"] == f"{LIST}/{id_}"
    await create_key(stack, "shop")
    await until_keys_required(stack)
    signed_out = await browser.get(LIST)
    assert (signed_out.status, signed_out.headers["HX-Redirect"]) == (401, "/console/sign-in")


@pytest.mark.reuses_stack
async def test_a_dead_letter_is_requeued_once(stack: Stack, browser: Visitor) -> None:
    id_ = await _failed(stack)
    page = await browser.get(f"{LIST}/{id_}")
    assert "Attempt 1: rejected" in page.words and "http_400" in page.words
    fields = {"version": _version(page)}
    done = await browser.post(f"{LIST}/{id_}/requeue", fields)
    assert (done.status, done.place) == (303, f"{LIST}/{id_}?done=requeued")
    await stack.becomes(id_, "sent")
    assert (await browser.post(f"{LIST}/{id_}/requeue", fields)).place.endswith("done=unchanged")
    assert (await browser.post(f"{LIST}/{id_}/discard", fields)).place.endswith("done=unchanged")
    page = await browser.get(f"{LIST}/{id_}?done=requeued")
    assert "Requeued, revision 1" in page.words and "Attempt 1 of revision 1: accepted" in page.words
    assert 'name="version"' not in page.text and await stack.status(id_) == "sent"
    assert stack.rows("SELECT revision FROM jobs") == [(1,)]


@pytest.mark.reuses_stack
async def test_a_click_on_an_old_page_leaves_a_message_that_failed_again(stack: Stack, browser: Visitor) -> None:
    id_ = await _failed(stack)
    fields = {"version": _version(await browser.get(f"{LIST}/{id_}"))}
    await stack.faults(fail=1, fail_status=400)
    await browser.post(f"{LIST}/{id_}/requeue", fields)

    async def revision() -> object:
        return stack.rows("SELECT revision, status FROM jobs")[0]

    await eventually(revision, lambda row: row == (1, "failed"))
    assert (await browser.post(f"{LIST}/{id_}/requeue", fields)).place.endswith("done=unchanged")
    assert await revision() == (1, "failed")


@pytest.mark.reuses_stack
async def test_a_dead_letter_is_discarded_and_stays_visible(stack: Stack, browser: Visitor) -> None:
    id_ = await _failed(stack)
    page = await browser.get(f"{LIST}/{id_}")
    for wrong in ({}, {"version": "x"}, {"version": "-1"}, {"version": "9" * 10}, {"version": "9" * 30}):
        assert (await browser.post(f"{LIST}/{id_}/discard", wrong)).status == 422
    done = await browser.post(f"{LIST}/{id_}/discard", {"version": _version(page)})
    assert done.place.endswith("done=discarded")
    await stack.becomes(id_, "discarded")
    page = await browser.get(done.place)
    assert "Nothing sends it again" in page.words and _ids(await browser.get(f"{LIST}?status=discarded")) == [id_]


@pytest.mark.reuses_stack
async def test_a_letter_past_its_deadline_is_requeued_if_the_deadline_is_renewed(stack: Stack, browser: Visitor) -> None:
    id_ = await _failed(stack)
    stack.rows("UPDATE jobs SET queued_at = queued_at - interval '1 year'")
    fields = {"version": _version(await browser.get(f"{LIST}/{id_}"))}
    expired = await browser.post(f"{LIST}/{id_}/requeue", fields)
    assert expired.place.endswith("done=expired") and "past its deadline" in (await browser.get(expired.place)).words
    assert (await browser.post(f"{LIST}/{id_}/requeue", {**fields, "extend": "on"})).place.endswith("done=requeued")
    await stack.becomes(id_, "sent")


@pytest.mark.reuses_stack
async def test_a_message_is_live_until_its_final_status(stack: Stack, browser: Visitor) -> None:
    await stack.faults(slow=1, slow_seconds=1)
    id_ = await stack.submit()
    assert f'sse-connect="{LIST}/{id_}/events"' in (await browser.get(f"{LIST}/{id_}")).text
    names, texts = [], []
    async for name, text in browser.events(f"{LIST}/{id_}/events"):
        names.append(name)
        texts.append(text)
    assert names == ["message"] * (len(names) - 1) + ["ended"] and len(names) >= 3
    assert "status-processing" in "".join(texts) and "Attempt 1: accepted" in texts[-2]
    assert "sse-connect" not in (await browser.get(f"{LIST}/{id_}")).text


@pytest.mark.reuses_stack
async def test_clients_see_their_own_messages_and_administrators_all(stack: Stack) -> None:
    shop, other, ops = (
        await create_key(stack, "shop"),
        await create_key(stack, "other"),
        await create_key(stack, "ops", "--scope", "admin"),
    )
    await until_keys_required(stack)
    await stack.faults(fail=1, fail_status=400)
    id_ = (await call(stack, "POST", "/messages", shop, json=MESSAGE))[1]["id"]
    async with visitor(stack.base) as mine, visitor(stack.base) as theirs, visitor(stack.base) as admin:
        for browser, key in ((mine, shop), (theirs, other), (admin, ops)):
            await browser.sign_in(key)
        own = await eventually(lambda: mine.get(f"{LIST}/{id_}"), lambda page: "Requeue" in page.words)
        fields = {"version": _version(own)}
        assert _ids(await mine.get(f"{LIST}?client=other")) == [id_]  # the field has no effect for them
        assert _ids(await theirs.get(LIST)) == _ids(await theirs.get(f"{LIST}?client=shop")) == []
        for path in (f"{LIST}/{id_}", f"{LIST}/{id_}/events"):
            assert (await theirs.get(path)).status == 404
        for action in ("requeue", "discard"):
            assert (await theirs.post(f"{LIST}/{id_}/{action}", fields)).status == 404
        assert _ids(await admin.get(LIST)) == _ids(await admin.get(f"{LIST}?client=shop")) == [id_]
        assert "shop" in (await admin.get(f"{LIST}/{id_}")).words
        assert (await admin.post(f"{LIST}/{id_}/discard", fields)).place.endswith("done=discarded")


@pytest.mark.reuses_stack
async def test_a_key_that_reads_sees_no_action(stack: Stack, browser: Visitor) -> None:
    key = await create_key(stack, "default", "--scope", "messages:read")
    id_ = new_id()
    await until_keys_required(stack)
    writer = await create_key(stack, "default")
    await stack.faults(fail=1, fail_status=400)
    id_ = (await call(stack, "POST", "/messages", writer, json=MESSAGE))[1]["id"]
    await browser.sign_in(key)
    page = await eventually(lambda: browser.get(f"{LIST}/{id_}"), lambda page: "status-failed" in page.text)
    assert set(re.findall(r'action="([^"]+)"', page.text)) == {"/console/sign-out", "/console/theme"}
    for action in ("requeue", "discard"):
        answer = await browser.post(f"{LIST}/{id_}/{action}", {"version": "3"})
        assert answer.status == 403 and "lacks the scope dead-letters" in answer.words


@pytest.mark.reuses_stack
async def test_every_view_requires_its_scope_and_every_change_the_token(stack: Stack, browser: Visitor) -> None:
    id_ = await _failed(stack)
    keys = [await create_key(stack, "shop", "--scope", scope) for scope in (Scope.REPORTS, Scope.MESSAGES_READ, Scope.ADMIN)]
    await until_keys_required(stack)
    async with visitor(stack.base) as reader, visitor(stack.base) as admin:
        for each, key in zip((browser, reader, admin), keys, strict=True):
            await each.sign_in(key)
            await each.get("/")
        for view in VIEWS:
            path = view.path.replace("{id}", id_)
            async with visitor(stack.base) as stranger:
                await stranger.get("/console/sign-in")
                answer = await (stranger.get(path) if view.method == "GET" else stranger.post(path))
                assert view.public or (answer.status == 303 and answer.place.startswith("/console/sign-in")), view
            if view.method == "POST":
                for token in ("", "x", browser.token):
                    assert (await admin.post(path, {"version": "3"}, token=token)).status == 403, view
            if view.scope is not None:
                lacking = reader if view.scope is Scope.REPORTS else browser
                answer = await (lacking.get(path) if view.method == "GET" else lacking.post(path))
                assert answer.status == 403 and f"lacks the scope {view.scope}" in answer.words, view
    assert stack.rows("SELECT status FROM jobs") == [("failed",)]
    assert {view.scope for view in VIEWS} >= {None, Scope.MESSAGES_READ, Scope.DEAD_LETTERS, Scope.ADMIN}


@pytest.mark.reuses_stack
async def test_hostile_text_stays_text(stack: Stack, browser: Visitor) -> None:
    await stack.faults(fail=1, fail_status=400)
    id_ = await stack.submit(HOSTILE, HOSTILE, reference=HOSTILE, tags=[HOSTILE[:64]], metadata={HOSTILE: HOSTILE})
    await stack.becomes(id_, "failed")
    pages = [
        await browser.get(path)
        for path in (LIST, f"{LIST}/{id_}", f"{LIST}?reference={HOSTILE}&destination=%22%3E%3Cscript%3E")
    ]
    texts = [page.text for page in pages]
    texts += [text async for name, text in browser.events(f"{LIST}/{id_}/events") if name == "message"]
    assert len(texts) == 4
    texts.append((await browser.get(f"/console/{HOSTILE.replace('/', '')}")).text)
    texts.append((await browser.get(f"{LIST}/{id_}?done={HOSTILE}")).text)
    for text in texts:
        assert "alert(1)</script>" not in text and "<img" not in text and EVALUATED not in text
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;") in texts[0]
    assert "&lt;script&gt;" in texts[1]


async def test_a_hostile_answer_of_a_provider_stays_text(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async def rude(request: web.Request) -> web.Response:
        return web.Response(status=422, text=f"no such number {HOSTILE}", content_type="text/html")

    async with (
        receiving(answers=[rude, rude]) as receiver,
        running(
            services, database, broker_namespace, tmp_path, others={"rude": {"url": receiver.url}}, default_provider="sandbox"
        ) as stack,
        visitor(stack.base) as browser,
    ):
        id_ = await stack.submit(provider="rude")
        await stack.becomes(id_, "failed")
        page = await browser.get(f"{LIST}/{id_}")
        assert f"no such number {HOSTILE}" in html.unescape(page.text) and "alert(1)</script>" not in page.text
        code, attempts = await stack.get(f"/messages/{id_}/attempts")
        assert code == 200 and "answer" not in attempts["data"][0]  # clients get stable codes, and no text of the provider
        logs = "".join(process.output() for process in stack.processes.values())
        assert "no such number" not in logs


async def test_no_answer_is_stored_if_bodies_are_not_retained(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, retain_body="false") as stack:
        await stack.faults(fail=1, fail_status=400)
        await stack.becomes(await stack.submit(), "failed")
        assert stack.rows("SELECT outcome, answer FROM attempts") == [("rejected", None)]
