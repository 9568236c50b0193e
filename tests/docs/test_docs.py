"""The pages say what the code says."""

import re
from dataclasses import asdict
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from pydantic import TypeAdapter

from api.operations import OPERATIONS
from cli.sandbox import Faults
from infra.http_calls import LookUpTimeout, ResolverBusy, outcome_of
from jobs.lifecycle import ENDS, Status
from jobs.outcome import Verdict, from_http
from service.provider_settings import ProviderName, ProviderSettings
from service.settings import Settings, load
from service.settings_view import SECTIONS
from tests.docs import ROOT, pages
from tests.support.settings import clear_settings, set_settings

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tests/chaos/README.md"]
RESERVED = {Status.CANCELED, Status.EXPIRED, Status.DELIVERED}  # no operation of this release leads there


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_generated_page_is_what_the_code_says(path: Path) -> None:
    assert path.read_text("utf-8") == pages()[path], "run `make docs`"


def test_every_setting_has_a_description_and_one_section() -> None:
    names = [name for section in SECTIONS.values() for name in section]
    assert sorted(names) == sorted(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_the_values_of_the_example_are_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    clear_settings(monkeypatch)
    set_settings(monkeypatch, {})
    defaults = load()
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text("utf-8"), "utf-8")
    assert load() == defaults


def test_the_http_page_names_every_operation_with_its_scope_and_no_other() -> None:
    page = (ROOT / "docs/http-api.md").read_text("utf-8")
    named = re.findall(r"^\| `(GET|POST|PUT|DELETE)` \| `([^`]+)` \| `?([a-z:-]+)`? \|", page, re.MULTILINE)
    assert sorted(named) == sorted((each.method, each.path, str(each.scope or "none")) for each in OPERATIONS)


@pytest.mark.parametrize("name", ["http-api.md", "lifecycle.md"])
def test_the_pages_list_every_status_and_whether_it_is_final(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes )?\|$", (ROOT / "docs" / name).read_text("utf-8"), re.MULTILINE)
    assert {status: bool(final) for status, final in rows} == {each: each in ENDS for each in set(Status) - RESERVED}


def test_the_pages_call_commands_by_name() -> None:
    by_path = re.compile(r"(?<!\. )\.venv/bin/\w+")
    assert [(page.name, each) for page in PAGES for each in by_path.findall(page.read_text("utf-8"))] == []


PROVIDERS = (ROOT / "docs/providers.md").read_text("utf-8")


def test_the_providers_page_has_the_outcome_of_every_status() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (accepted|deferred|retryable|rejected) \| (yes|no) \|", PROVIDERS, re.MULTILINE)

    def documented(status: int, retry_after: float | None) -> tuple[str, str]:
        for statuses, outcome, charged in rows:
            matches = re.search(rf"\b({status}|{status // 100}xx)\b", statuses) or statuses == "every other"
            if matches and (retry_after is not None or "with `Retry-After`" not in statuses):
                return outcome, charged
        raise AssertionError(f"{status} is missing")

    for status in range(200, 600):
        for retry_after in (None, 5.0):
            verdict = from_http(status, None, retry_after).verdict
            assert documented(status, retry_after) == (verdict, "no" if verdict is Verdict.DEFERRED else "yes"), status


def test_the_providers_page_has_the_reason_of_every_call_without_an_answer() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (deferred|unknown) \| (?:no|yes) \|$", PROVIDERS, re.MULTILINE))
    key, certificate = ConnectionKey("h", 443, True, True, None, None, None), OSError(1, "refused")
    errors: list[aiohttp.ClientError | TimeoutError] = [
        aiohttp.ClientConnectorSSLError(key, certificate),
        aiohttp.ClientConnectorError(key, ResolverBusy()),
        aiohttp.ClientConnectorError(key, LookUpTimeout()),
        aiohttp.ClientConnectorError(key, certificate),
        aiohttp.ConnectionTimeoutError(),
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
    ]
    outcomes = [outcome_of(error, unconnected=Verdict.DEFERRED) for error in errors]
    assert rows == {outcome.reason: outcome.verdict for outcome in outcomes}


def test_the_providers_of_the_providers_page_are_valid() -> None:
    (example,) = re.findall(r"```json\n(.+?)```", PROVIDERS, re.DOTALL)
    assert TypeAdapter(dict[ProviderName, ProviderSettings]).validate_json(example)


def test_the_modules_that_the_pages_name_exist() -> None:
    path = re.compile(r"`((?:api|benchmarks|consumers|cli|examples|infra|jobs|migrations|service|tests)/[\w/]*\.?\w*)`")
    named = {page: path.findall(page.read_text("utf-8")) for page in PAGES}
    assert len(named[ROOT / "docs/glossary.md"]) > 40
    assert [(page.name, each) for page, all_ in named.items() for each in all_ if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_the_operations_page_lists_every_fault_of_the_sandbox_with_its_default() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:share|seconds|HTTP status) \| (\d+) \|", page, re.MULTILINE)
    assert {name: float(default) for name, default in rows} == asdict(Faults())


def test_the_readme_is_read_in_three_minutes() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert sum(any(map(str.isalnum, word)) for word in text.split()) <= 700


def test_the_operations_page_lists_every_lasting_failure() -> None:
    source = "".join(
        path.read_text("utf-8") for room in ("api", "consumers", "service", "infra") for path in (ROOT / room).rglob("*.py")
    )
    subjects = set(re.findall(r'OutageLog\(\s*"([\w.]+)"', source))
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    assert subjects and all(f"\n| `{subject}` |" in page for subject in subjects)
