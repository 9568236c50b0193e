"""Which URLs are called on a client's word: what is refused as text, and which addresses are, whatever a name says."""

from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from infra.webhooks.guard import Guard, Refused, split

AS_TEXT = {
    # not a URL that can be called
    "": "must begin with",
    "example.com/hook": "must begin with",
    "//example.com/hook": "must begin with",
    "ftp://example.com/": "must begin with",
    "file:///etc/passwd": "must begin with",
    "gopher://127.0.0.1:6379/_FLUSHALL": "must begin with",
    "javascript:alert(1)": "must begin with",
    "http:/example.com": "must begin with",
    "http:example.com": "must begin with",
    " http://example.com/": "must begin with",
    "http://": "plain ASCII",
    "http:///path": "must have a host",
    "http://?query": "must have a host",
    "http://example.com/" + "a" * 2000: "at most 2000",
    # two parsers, two hosts
    "http://example.com\\@127.0.0.1/": "plain ASCII",
    "http://example.com\\.internal/": "plain ASCII",
    "http://exa mple.com/": "plain ASCII",
    "http://example.com/\r\nHost: other": "plain ASCII",
    "http://example.com/\tx": "plain ASCII",
    "http://example.com/\0": "plain ASCII",
    "http://example.com#@127.0.0.1/": "fragment",
    "http://example.com/#top": "fragment",
    "http://example.com/%zz": "plain ASCII",
    "http://127.0.0.1%2f@example.com/": "credentials",
    "http://[::1%25eth0]/": "must have a host",
    "http://[::1/": "must have a host",
    "http://::1/": "must have a host",
    "http://[fe80::1]8080/": "must have a host",
    "http://[1::2::3]/": "IPv6",
    "http://[127.0.0.1]/": "IPv6",
    # credentials
    "http://user:secret@example.com/": "credentials",
    "http://user@example.com/": "credentials",
    "http://@example.com/": "credentials",
    "http://example.com:80@127.0.0.1/": "credentials",
    # odd ports
    "http://example.com:22/": "port 22",
    "http://example.com:25/": "port 25",
    "https://example.com:6379/": "port 6379",
    "http://example.com:0/": "port",
    "http://example.com:65536/": "port",
    "http://example.com:/": "port",
    "http://example.com:080/": "port",
    "http://example.com:+80/": "port",
    "http://example.com:80:80/": "port",
    # names
    "http://localhost/": "loopback",
    "http://LOCALHOST/": "loopback",
    "http://a.localhost/": "loopback",
    "http://-example.com/": "not a name",
    "http://example..com/": "not a name",
    "http://.example.com/": "not a name",
    "http://example.com./": "not a name",
    "http://127.0.0.1./": "not a name",
    "http://a_b.example.com/": "not a name",
    f"http://{'a' * 64}.com/": "not a name",
    "http://" + "a." * 127 + "com/": "not a name",
    "http://%31%32%37.0.0.1/": "not a name",
    "http://\uff11\uff12\uff17.0.0.1/": "plain ASCII",
    "http://127。0。0。1/": "plain ASCII",
    "http://ⓛocalhost/": "plain ASCII",
    "http://bücher.example/": "plain ASCII",
    # the many forms of an IPv4 address
    "http://127.0.0.1/": "loopback",
    "http://2130706433/": "IPv4",
    "http://0x7f000001/": "IPv4",
    "http://0x7f.0x0.0x0.0x1/": "IPv4",
    "http://0177.0.0.1/": "IPv4",
    "http://017700000001/": "IPv4",
    "http://127.1/": "IPv4",
    "http://127.0.1/": "IPv4",
    "http://127.0.0.01/": "IPv4",
    "http://127.0.0.256/": "IPv4",
    "http://1.2.3.4.5/": "IPv4",
    "http://0x/": "IPv4",
    "http://0/": "IPv4",
    "http://example.com.1/": "IPv4",
    # where it must not lead
    "http://0.0.0.0/": "unspecified",
    "http://0.1.2.3/": "unspecified",
    "http://10.0.0.1/": "private",
    "http://100.64.0.1/": "private",
    "http://100.100.100.200/latest/meta-data": "private",
    "http://127.255.255.254/": "loopback",
    "http://168.63.129.16/": "metadata",
    "http://169.254.169.254/latest/meta-data/": "link-local",
    "http://169.254.170.2/": "link-local",
    "http://172.16.0.1/": "private",
    "http://172.31.255.255/": "private",
    "http://192.0.0.192/": "reserved",
    "http://192.168.1.1/": "private",
    "http://192.88.99.1/": "6to4",
    "http://198.18.0.1/": "benchmarks",
    "http://203.0.113.7/": "documentation",
    "http://224.0.0.1/": "multicast",
    "http://239.255.255.250:1900/": "multicast",
    "http://240.0.0.1/": "reserved",
    "http://255.255.255.255/": "reserved",
    "http://[::]/": "unspecified",
    "http://[::1]/": "loopback",
    "http://[0:0:0:0:0:0:0:1]/": "loopback",
    "http://[::ffff:127.0.0.1]/": "mapped",
    "http://[::ffff:7f00:1]/": "mapped",
    "http://[::ffff:8.8.8.8]/": "mapped",
    "http://[::127.0.0.1]/": "compatible",
    "http://[64:ff9b::7f00:1]/": "NAT64",
    "http://[64:ff9b::10.0.0.1]/": "NAT64",
    "http://[64:ff9b:1::1]/": "NAT64",
    "http://[2002:7f00:1::]/": "6to4",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/": "Teredo",
    "http://[2001:db8::1]/": "documentation",
    "http://[fe80::1]/": "link-local",
    "http://[fec0::1]/": "private",
    "http://[fc00::1]/": "private",
    "http://[fd00:ec2::254]/": "private",
    "http://[ff02::1]/": "multicast",
    "http://[100::1]/": "not allocated",
    "http://[4000::1]/": "not allocated",
}

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


@pytest.mark.parametrize("url", AS_TEXT)
def test_a_hostile_url_is_refused_as_it_is_given(url: str) -> None:
    with pytest.raises(Refused, match=AS_TEXT[url]):
        Guard().check(url)


@pytest.mark.parametrize("url", FINE)
def test_a_plain_url_to_a_public_place_is_taken(url: str) -> None:
    Guard().check(url)


def test_what_the_allow_list_names_may_be_called_at_any_port() -> None:
    guard = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
    for url in ("http://127.0.0.1:9008/", "http://localhost:9008/", "http://[::1]:9008/"):
        guard.check(url)
    guard.permit("127.0.0.1", 22)
    for address in ("10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::"):
        with pytest.raises(Refused):
            guard.permit(address, 80)
    # A name may turn out to be allowed; the port is looked at when its address is known.
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
