"""The console's sign-in over real HTTP: sessions, cookies, tokens of forms, scopes, rates, and the open mode."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.console.gate import MAX_FORM_BYTES
from infra.keys import new_key
from tests.support.console import Visitor, visitor
from tests.support.keys import create_key, key_store, until_keys_required
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

THEME = {"theme": "dark", "next": "/"}


@pytest.fixture
async def browser(stack: Stack) -> AsyncIterator[Visitor]:
    async with visitor(stack.base) as opened:
        yield opened


@pytest.fixture
async def key(stack: Stack) -> str:
    key = await create_key(stack, "shop")
    await until_keys_required(stack)
    return key


@pytest.mark.reuses_stack
async def test_a_key_opens_the_console_until_it_is_revoked(stack: Stack, browser: Visitor, key: str) -> None:
    first = await browser.get("/")
    assert (first.status, first.place) == (303, "/console/sign-in")
    deep = await browser.get("/console/settings?a=b")
    assert deep.place == "/console/sign-in?next=%2Fconsole%2Fsettings%3Fa%3Db"
    form = await browser.get(deep.place)
    assert form.status == 200 and "Overview" not in form.words
    entered = await browser.post("/console/sign-in", {"key": key, "next": "/console/x"})
    assert (entered.status, entered.place) == (303, "/console/x")
    (cookie,) = entered.cookies
    assert cookie.startswith("posthaste_session=ph_") and key.rpartition("_")[2] not in cookie
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=43200"} <= set(cookie.split("; ")) and "Secure" not in cookie
    page = await browser.get("/")
    assert page.status == 200 and "shop" in page.words and key[:11] in page.words
    assert (await browser.get("/console/sign-in")).place == "/"
    async with key_store(stack) as store:
        assert await store.revoke(key[:11], 10) == 1
    revoked = await eventually(lambda: browser.get("/"), lambda answer: answer.status == 303, 2)
    assert revoked.place == "/console/sign-in" and 'posthaste_session=""' in revoked.cookies[0]


@pytest.mark.reuses_stack
async def test_sign_out_ends_the_session_in_this_browser(browser: Visitor, key: str) -> None:
    await browser.sign_in(key)
    await browser.get("/")
    assert (await browser.post("/console/sign-out")).place == "/console/sign-in"
    assert (await browser.get("/")).status == 303


@pytest.mark.reuses_stack
async def test_cookies_are_secure_behind_a_proxy_with_tls(stack: Stack, key: str) -> None:
    async with visitor(stack.base, **{"X-Forwarded-Proto": "https"}) as behind_tls:
        form = await behind_tls.get("/console/sign-in")
        token = form.cookies[0].partition("=")[2].partition(";")[0]
        behind_tls.headers["Cookie"] = f"posthaste_form={token}"  # a client does not return it over plain HTTP
        entered = await behind_tls.post("/console/sign-in", {"key": key})
        assert entered.status == 303 and all("Secure" in cookie for cookie in (*form.cookies, *entered.cookies))


async def test_a_wrong_key_shows_the_form_again(browser: Visitor, key: str) -> None:
    await browser.get("/console/sign-in")
    for wrong in ("", "ph_x", "nonsense", new_key().key, f"{key[:-1]}!"):
        answer = await browser.post("/console/sign-in", {"key": wrong})
        assert answer.status == 401 and "unknown, expired or revoked" in answer.words
        assert wrong == "" or wrong not in answer.text


async def test_sign_ins_with_wrong_keys_are_limited_by_address(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, rate_per_address="3/minute") as stack:
        key = await create_key(stack, "shop")
        await until_keys_required(stack)
        async with visitor(stack.base) as browser:
            await browser.get("/console/sign-in")

            async def attempt() -> int:
                return (await browser.post("/console/sign-in", {"key": new_key().key})).status

            assert await eventually(attempt, lambda status: status != 401) == 429
            assert "rate_limited" in (await browser.post("/console/sign-in", {"key": "x"})).text
            await browser.sign_in(key)  # a usable key is no failure


@pytest.mark.reuses_stack
async def test_forged_and_foreign_sessions_are_refused(stack: Stack, browser: Visitor, key: str) -> None:
    await browser.sign_in(key)
    other = await create_key(stack, "other")
    (cookie,) = [each for each in browser.session.cookie_jar if each.key == "posthaste_session"]
    last = "1" if cookie.value.endswith("0") else "0"
    for forged in (cookie.value.replace(key[:11], other[:11]), cookie.value[:-1] + last, "ph_first.9999999999." + "0" * 64):
        async with visitor(stack.base, Cookie=f"posthaste_session={forged}") as forger:
            assert (await forger.get("/")).status == 303


@pytest.mark.reuses_stack
async def test_a_form_without_the_token_of_its_session_is_refused(stack: Stack, browser: Visitor, key: str) -> None:
    await browser.sign_in(key)
    await browser.get("/")
    token = browser.token
    async with visitor(stack.base) as other:
        await other.sign_in(await create_key(stack, "other"))
        await other.get("/")
        for wrong in ("", "x", token[:-1], other.token):
            for path in ("/console/theme", "/console/sign-out", "/console/sign-in"):
                answer = await browser.post(path, THEME, token=wrong)
                assert answer.status == 403 and "form_expired" in answer.text, (path, wrong)
    assert (await browser.get("/")).status == 200  # nobody signed out
    accepted = await browser.post("/console/theme", THEME, token=token)
    assert accepted.status == 303 and "posthaste_theme=dark" in accepted.cookies[0]
    assert 'data-theme="dark"' in (await browser.get("/")).text


@pytest.mark.reuses_stack
async def test_the_header_of_htmx_replaces_the_field(browser: Visitor, key: str) -> None:
    await browser.sign_in(key)
    await browser.get("/")
    token, browser.headers["X-CSRF-Token"] = browser.token, browser.token
    assert (await browser.post("/console/theme", THEME, token="")).status == 303
    browser.headers["X-CSRF-Token"] = "x"
    assert (await browser.post("/console/theme", THEME, token=token)).status == 403


@pytest.mark.reuses_stack
async def test_open_mode_needs_no_key_but_the_token(stack: Stack, browser: Visitor) -> None:
    page = await browser.get("/")
    assert page.status == 200 and "No key is required" in page.words and "Settings" in page.words
    (cookie,) = page.cookies
    assert cookie.startswith("posthaste_form=") and {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    for wrong in ("", "x"):
        assert (await browser.post("/console/theme", THEME, token=wrong)).status == 403
    async with visitor(stack.base) as without_cookie:
        assert (await without_cookie.post("/console/theme", THEME, token=browser.token)).status == 403
    assert (await browser.post("/console/theme", THEME)).status == 303
    assert (await browser.get("/")).cookies == []


@pytest.mark.reuses_stack
async def test_forms_of_other_types_and_sizes_are_refused(stack: Stack, browser: Visitor) -> None:
    await browser.get("/")
    path, data = f"{stack.base}/console/theme", {**THEME, "csrf_token": browser.token}
    async with browser.session.post(path, json=data) as answer:
        assert answer.status == 415
    async with browser.session.post(path, data={**data, "x": "y" * MAX_FORM_BYTES}) as answer:
        assert answer.status == 413
    async with browser.session.post(path, data={**data, **{f"x{n}": "" for n in range(200)}}) as answer:
        assert answer.status == 400
    for wrong in ("x", "<script>"):
        assert (await browser.post("/console/theme", {"theme": wrong})).status == 422
    assert (await browser.post("/console/theme", {**THEME, "next": "//evil.example"})).place == "/"


@pytest.mark.reuses_stack
async def test_scopes_decide_what_is_shown(stack: Stack, browser: Visitor, key: str) -> None:
    await browser.sign_in(key)
    page, refused = await browser.get("/"), await browser.get("/console/settings")
    assert "Settings" not in page.words
    assert refused.status == 403 and "lacks the scope admin" in refused.words and "Overview" in refused.words
    async with visitor(stack.base) as admin:
        await admin.sign_in(await create_key(stack, "ops", "--scope", "admin"))
        shown = await admin.get("/console/settings")
        assert shown.status == 200 and "POSTHASTE_LEASE_SECONDS" in shown.words


async def test_settings_show_no_secret(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> None:
    provider = {"headers": {"X-Token": "s3cret-header"}, "auth": {"basic": {"username": "u", "password": "s3cret-auth"}}}
    others = {"path": {"url": "http://127.0.0.1:9/s3cret-path?key=s3cret-query"}, "user": {"url": "http://me:s3cret-user@h/"}}
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    settings: dict[str, Any] = {
        "callback_secrets": json.dumps([secret]),
        "callback_allow": '["127.0.0.0/8"]',
        "default_provider": "sandbox",
    }
    settings["callback_url"] = "http://127.0.0.1:9/s3cret-callback"
    settings["api_key"] = "s3cret-key"
    async with (
        running(services, database, broker_namespace, tmp_path, provider=provider, others=others, **settings) as stack,
        visitor(stack.base) as browser,
    ):
        page = await browser.get("/console/settings")
        passwords = [url.rpartition("@")[0].rpartition(":")[2] for url in (stack.database, services.amqp)]
        for hidden in ("s3cret", secret, *filter(None, passwords[:1])):
            assert hidden not in page.text
        assert "127.0.0.1" in page.words and "••••••" in page.words


@pytest.mark.reuses_stack
async def test_pages_of_other_sites_cannot_use_the_console(browser: Visitor, key: str) -> None:
    await browser.sign_in(key)
    await browser.get("/")
    browser.headers["Sec-Fetch-Site"] = "cross-site"
    for answer in (await browser.get("/"), await browser.post("/console/theme", THEME)):
        assert answer.status == 403 and "cross_site" in answer.text
    del browser.headers["Sec-Fetch-Site"]
    browser.headers["Origin"] = "https://evil.example"
    assert (await browser.post("/console/theme", THEME)).status == 403


@pytest.mark.reuses_stack
async def test_every_page_has_the_policy_and_static_files_are_cached(stack: Stack, browser: Visitor) -> None:
    page = await browser.get("/")
    for answer in (page, await browser.get("/console/nothing"), await browser.get("/console/sign-in/x")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy and "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await browser.get("/console/nothing")).status == 404
    script = page.text.partition('<script src="')[2].partition('"')[0]
    file = await browser.get(script)
    assert file.status == 200 and "immutable" in file.headers["Cache-Control"] and file.cookies == []
    assert file.headers["Content-Type"].startswith("text/javascript")
    for wrong in (script.replace("/static/", "/static/../"), script[:-1], "/console/static/", "/console/static/%2e%2e/gate.py"):
        assert (await browser.get(wrong)).status == 404
