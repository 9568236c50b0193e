"""The doctor's findings about URLs and indexes."""

from datetime import UTC, datetime

import pytest

from cli.doctor import _consumers, _indexes, _without_password
from infra.postgres import compatibility
from infra.rabbitmq.inspection import QueueState
from service.settings import Settings


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("postgresql://me:secret@h:5432/db?sslmode=verify-full&password=secret", "postgresql://h:5432/db"),
        ("postgresql://me:se@cret@h1:5432,h2:5433/db", "postgresql://h1:5432,h2:5433/db"),
        ("amqps://me:secret@h/?cafile=/ca.pem", "amqps://h/"),
        ("rediss://:secret@[::1]:6379/0?ssl_ca_certs=/ca.pem", "rediss://[::1]:6379/0"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
    ],
)
def test_neither_user_nor_password_are_shown(url: str, printed: str) -> None:
    assert _without_password(url) == printed


def test_an_invalid_index_is_named_with_the_command_that_repairs_it() -> None:
    diagnosis = compatibility.Diagnosis(datetime.now(UTC), 1, 0, {}, {}, ["jobs_backlog"])
    (finding,) = _indexes(diagnosis)
    assert (finding.subject, finding.verdict) == ("indexes", "wrong")
    assert "jobs_backlog" in finding.detail and "posthaste migrate" in finding.fix


def test_the_queues_of_a_paused_provider_need_no_consumer() -> None:
    urls = {"database_url": "postgresql://h/d", "amqp_url": "amqp://h/", "redis_url": "redis://h"}
    settings = Settings.model_validate({**urls, "callback_secrets": []})
    names = ["messages.one.normal", "messages.two.normal"]
    states = [QueueState(name, f"posthaste.{name}", ready=3) for name in names]
    (wrong,) = _consumers(settings, states, {"one"})
    assert wrong.verdict == "wrong" and "messages.two" in wrong.detail and "messages.one" not in wrong.detail
    (fine,) = _consumers(settings, states, {"one", "two"})
    assert (fine.verdict, fine.detail) == ("ok", "every work queue of an active provider has a consumer")
