"""The SSRF guard: URLs refused by their text, and addresses refused after resolution."""

from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from infra.webhooks.guard import Guard, Refused, split
from tests.support.hostile_urls import HOSTILE_URLS

FINE = [
    "https://example.com",
    "https://example.com/hook?tenant=1&sign=%20a",
    "HTTPS://Example.COM/Hook",
    "http://example.com:8080/",
    "https://xn--bcher-kva.example/",
    "https://8.8.8.8/hook",
    "https://[2606:4700:4700::1111]:8443/hook",
    "https://1e100.net/",
    "https://0x.example.com/",
]


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_a_hostile_url_is_refused_as_text(url: str) -> None:
    with pytest.raises(Refused, match=HOSTILE_URLS[url]):
        Guard().check(url)


@pytest.mark.parametrize("url", FINE)
def test_a_plain_url_to_a_public_place_is_taken(url: str) -> None:
    Guard().check(url)


def test_allowed_networks_may_be_called_at_any_port() -> None:
    guard = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
    for url in ("http://127.0.0.1:9008/", "http://localhost:9008/", "http://[::1]:9008/"):
        guard.check(url)
    guard.permit("127.0.0.1", 22)
    for address in ("10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::"):
        with pytest.raises(Refused):
            guard.permit(address, 80)
    # A name may resolve to an allowed address; the port is checked then.
    guard.check("http://receiver:9008/")
    with pytest.raises(Refused, match="port 9008"):
        guard.permit("8.8.8.8", 9008)


def test_the_ports_are_a_setting() -> None:
    Guard(ports=[9999]).check("https://example.com:9999/")
    with pytest.raises(Refused, match="port 443 is not allowed; allowed ports: 9999"):
        Guard(ports=[9999]).check("https://example.com/")


def test_an_address_with_a_zone_is_judged_without_it() -> None:
    with pytest.raises(Refused, match="link-local"):
        Guard().permit("fe80::1%eth0", 80)


_PARTS = "a A example.com 127.0.0.1 1 0x7f . - : 80 8080 @ / // ? [ ] ::1 % %40 \\ ; & = ~ _ ! $ ' ( ) * , +".split()  # noqa: SIM905
_PIECES = st.lists(st.sampled_from(_PARTS), max_size=8).map("".join)


@given(scheme=st.sampled_from(["http://", "https://", "HTTP://"]), rest=st.one_of(_PIECES, st.text(max_size=20)))
def test_every_parser_reads_the_same_host_and_port_in_what_is_taken(scheme: str, rest: str) -> None:
    url = scheme + rest
    try:
        host, port = split(url)
    except Refused:
        return
    called, standard = yarl.URL(url, encoded=True), urlsplit(url)
    assert (called.host and called.host.lower(), called.port) == (host, port)  # names differ in no case: RFC 4343
    assert standard.hostname is not None and standard.hostname.lower() == (called.raw_host or "").lower()
    assert (standard.port or called.port) == port
    assert standard.username is None and called.user is None
