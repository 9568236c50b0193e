"""Invalid settings are refused at start, by the variable's name."""

import json
import re
from pathlib import Path

import pytest

from infra.webhooks.guard import Refused
from jobs.model import work_queues
from jobs.retry import RetryPolicy, backoff_seconds
from service import settings
from service.settings import PREFIX, Settings, SettingsError, load
from tests.support.receiver import SECRET
from tests.support.settings import clear_settings, set_settings

SANDBOX = '{"sandbox": {"url": "http://127.0.0.1:9/message"}}'


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    set_settings(monkeypatch, values)


def test_the_queues_of_all_providers_fit_on_one_connection() -> None:
    """RabbitMQ's default channel_max is 2047; one channel declares, and each queue has its own."""
    assert 1 + len(work_queues(f"p{n}" for n in range(settings.MOST_PROVIDERS))) <= 2047


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, PROVIDERS=SANDBOX)
    loaded = load()
    assert (loaded.namespace, loaded.host, loaded.port, loaded.lease_seconds) == ("posthaste", "127.0.0.1", 9006, 60)
    provider = loaded.providers["sandbox"]
    assert (provider.timeout_seconds, provider.concurrency, provider.retry.attempts) == (10, 64, 20)
    assert loaded.provider_for_new_messages() == "sandbox"
    assert loaded.policies()["messages.sandbox.normal"] == RetryPolicy()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"DATABASE_URL": "mysql://h/db"}, "POSTHASTE_DATABASE_URL"),
        ({"AMQP_URL": "http://h"}, "POSTHASTE_AMQP_URL"),
        ({"REDIS_URL": ""}, "POSTHASTE_REDIS_URL"),
        ({"DATABASE_URL": "postgresql://h/db?sslmode=verify-full&sslrootcert=absent"}, "POSTHASTE_DATABASE_URL: sslrootcert"),
        ({"DATABASE_URL": "postgres://h/db?sslrootcert=system"}, "POSTHASTE_DATABASE_URL: sslrootcert"),
        ({"MIGRATION_DATABASE_URL": "postgresql://h/db?cafile=absent"}, "POSTHASTE_MIGRATION_DATABASE_URL: cafile"),
        ({"AMQP_URL": "amqps://h/?cafile=absent"}, "POSTHASTE_AMQP_URL: cafile"),
        ({"AMQP_URL": "amqp://h/?cafile=/dev/null"}, "POSTHASTE_AMQP_URL: cafile is supported only in amqps:// URLs"),
        ({"AMQP_URL": "amqps://h/?ssl_ca_certs=x"}, "POSTHASTE_AMQP_URL: ssl_ca_certs"),
        ({"REDIS_URL": "redis://h?ssl_ca_certs=x"}, "POSTHASTE_REDIS_URL: ssl_ca_certs"),
        ({"PORT": "0"}, "POSTHASTE_PORT"),
        ({"PORT": "many"}, "POSTHASTE_PORT"),
        ({"NAMESPACE": "Not This"}, "POSTHASTE_NAMESPACE"),
        ({"PROVIDERS": "{"}, "POSTHASTE_PROVIDERS"),
        ({"PROVIDERS": '{"UPPER": {"url": "http://h/"}}'}, "POSTHASTE_PROVIDERS"),
        ({"PROVIDERS": '{"a": {"url": "ftp://h/"}}'}, "POSTHASTE_PROVIDERS.a.url"),
        ({"PROVIDERS": '{"a": {"url": "http://h/", "speed": 1}}'}, "POSTHASTE_PROVIDERS.a.speed"),
        ({"PROVIDERS": json.dumps({f"p{n}": {"url": "http://h/"} for n in range(1001)})}, "POSTHASTE_PROVIDERS"),
        ({"PROVIDERS_FILE": "absent.json"}, "POSTHASTE_PROVIDERS_FILE"),
        ({"PROVIDERS": SANDBOX, "PROVIDERS_FILE": "absent.json"}, "POSTHASTE_PROVIDERS_FILE"),
        ({"DEFAULT_PROVIDER": "nobody"}, "POSTHASTE_DEFAULT_PROVIDER"),
        ({"PROVIDERS": SANDBOX, "LEASE_SECONDS": "15"}, "POSTHASTE_LEASE_SECONDS"),
        ({"SHUTDOWN_GRACE_SECONDS": "60"}, "POSTHASTE_SHUTDOWN_GRACE_SECONDS"),
        ({"LOG_LEVEL": "loud"}, "POSTHASTE_LOG_LEVEL"),
        ({"SPEED": "1"}, "POSTHASTE_SPEED"),
        ({"CALLBACK_SECRETS": '["whsec_short"]'}, "POSTHASTE_CALLBACK_SECRETS.0"),
        ({"CALLBACK_SECRETS": "whsec_notalist"}, "POSTHASTE_CALLBACK_SECRETS"),
        ({"CALLBACK_ALLOW": '["loopback"]'}, "POSTHASTE_CALLBACK_ALLOW.0"),
        ({"ALLOWED_HOSTS": '["http://posthaste.example"]'}, "POSTHASTE_ALLOWED_HOSTS.0"),
        ({"TRUSTED_PROXIES": '["gateway"]'}, "POSTHASTE_TRUSTED_PROXIES.0"),
        ({"CALLBACK_PORTS": "[0]"}, "POSTHASTE_CALLBACK_PORTS.0"),
        ({"CALLBACK_RETRY_SECONDS": "[-1]"}, "POSTHASTE_CALLBACK_RETRY_SECONDS.0"),
        ({"CALLBACK_URL": "https://receiver.example/"}, "POSTHASTE_CALLBACK_SECRETS is not"),
        ({"CALLBACK_URL": "http://10.0.0.1/", "CALLBACK_SECRETS": f'["{SECRET}"]'}, "POSTHASTE_CALLBACK_URL"),
        ({"OPERATOR_URL": "https://operator.example/"}, "POSTHASTE_OPERATOR_URL is set and POSTHASTE_CALLBACK_SECRETS is not"),
        ({"OPERATOR_URL": "http://10.0.0.1/", "CALLBACK_SECRETS": f'["{SECRET}"]'}, "POSTHASTE_OPERATOR_URL: "),
        ({"OPERATOR_DEAD_LETTERS": "10001"}, "POSTHASTE_OPERATOR_DEAD_LETTERS"),
        ({"REPORT_SCHEDULER": "dask-scheduler:8786"}, "POSTHASTE_REPORT_SCHEDULER: must be a tcp:// or tls:// URL with a port"),
        ({"REPORT_PROCESSES": "0"}, "POSTHASTE_REPORT_PROCESSES"),
        ({"REPORT_SNAPSHOT_SECONDS": "0"}, "POSTHASTE_REPORT_SNAPSHOT_SECONDS"),
        ({"TRACING": "jaeger"}, "POSTHASTE_TRACING"),
        ({"CALLBACK_SECRETS": f'["{SECRET}"]', "LEASE_SECONDS": "21"}, "POSTHASTE_CALLBACK_TIMEOUT_SECONDS"),
    ],
)
def test_inconsistent_settings_are_named(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], named: str) -> None:
    _set(monkeypatch, **values)
    with pytest.raises(SettingsError, match=re.escape(named)):
        load()


def test_all_invalid_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHASTE_PORT", "x")
    with pytest.raises(SettingsError) as caught:
        load()
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "PORT"):
        assert PREFIX + name in str(caught.value)


def test_an_unknown_name_in_a_file_is_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _set(monkeypatch)
    (tmp_path / ".env").write_text("POSTHASTE_PROT=1\n")
    with pytest.raises(SettingsError, match=r"POSTHASTE_PROT .*\.env"):
        load()


def test_a_value_in_a_file_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _set(monkeypatch)
    (tmp_path / ".env").write_text("POSTHASTE_CALLBACK_PORTS=80, 443\n")
    with pytest.raises(SettingsError, match="POSTHASTE_CALLBACK_PORTS: is not valid JSON"):
        load()


def test_the_environment_wins_over_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _set(monkeypatch, PORT="9100")
    (tmp_path / ".env").write_text("POSTHASTE_PORT=9200\nPOSTHASTE_NAMESPACE=filed\n")
    loaded = load()
    assert (loaded.port, loaded.namespace) == (9100, "filed")


def test_providers_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "providers.json").write_text(SANDBOX)
    _set(monkeypatch, PROVIDERS_FILE="providers.json")
    assert list(load().providers) == ["sandbox"]


def test_without_or_with_several_providers_a_default_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    with pytest.raises(SettingsError, match="POSTHASTE_PROVIDERS"):
        load().provider_for_new_messages()
    _set(monkeypatch, PROVIDERS='{"a": {"url": "http://h/"}, "b": {"url": "http://h/"}}')
    with pytest.raises(SettingsError, match="POSTHASTE_DEFAULT_PROVIDER"):
        load().provider_for_new_messages()


def test_the_owner_migrates_and_is_who_runs_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    _set(monkeypatch)
    assert load().owner_url == "postgresql://h/db"
    owner = "postgresql://owner@h/db?sslmode=verify-full&sslrootcert=ca.pem"
    _set(monkeypatch, MIGRATION_DATABASE_URL=owner)
    assert (load().owner_url, load().database_url) == (owner, "postgresql://h/db")


def test_the_example_lists_every_setting() -> None:
    example = (Path(settings.__file__).parents[1] / ".env.example").read_text()
    listed = set(re.findall(r"^#? ?(POSTHASTE_\w+)=", example, re.MULTILINE))
    assert listed == {PREFIX + name.upper() for name in Settings.model_fields}


def test_callbacks_go_to_public_addresses_and_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, CALLBACK_SECRETS=f'["{SECRET}"]', CALLBACK_ALLOW='["10.1.0.0/16", "::1"]', CALLBACK_PORTS="[443]")
    loaded = load()
    loaded.guard().check("http://10.1.2.3:9008/")
    for url in ("http://10.2.0.1/", "http://8.8.8.8:8080/"):
        with pytest.raises(Refused):
            loaded.guard().check(url)
    assert SECRET not in repr(loaded)


def test_the_callbacks_schedule_is_standard_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    policy = load().policies()["callbacks"]
    assert policy.attempts == 10
    delays = [backoff_seconds(policy, failed, 0.5) for failed in range(1, 10)]
    assert delays == pytest.approx([5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400])
    assert [backoff_seconds(policy, 1, jitter) for jitter in (0.0, 1.0)] == pytest.approx([4.5, 5.5])
