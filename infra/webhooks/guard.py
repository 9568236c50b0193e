"""The guard against server-side request forgery through callback URLs.

A URL is checked as text on acceptance. Each address is checked again before the connection, because a name can resolve to
another address later. URLs in an unusual form are rejected, because two parsers may read them differently.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

MAX_URL = 2000  # characters
PORTS = frozenset({80, 443, 8080, 8443})
_PORT_OF = {"http": 80, "https": 443}
_TEXT = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")  # RFC 3986, but for the fragment
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")

# IANA's special-purpose registries (RFC 6890 and its successors), the translations between IPv4 and IPv6, and one cloud.
_SPECIAL = {  # the first match names the purpose
    "unspecified": ["0.0.0.0/8", "::/128"],
    "private": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"],
    "private (shared by carriers)": ["100.64.0.0/10"],
    "loopback": ["127.0.0.0/8", "::1/128"],
    "a cloud's metadata service": ["168.63.129.16/32"],
    "link-local (metadata services are there)": ["169.254.0.0/16"],
    "link-local": ["fe80::/10"],
    "an IPv4 address in disguise (mapped)": ["::ffff:0:0/96"],
    "an IPv4 address in disguise (compatible)": ["::/96"],
    "an IPv4 address in disguise (NAT64)": ["64:ff9b::/96", "64:ff9b:1::/48"],
    "an IPv4 address in disguise (Teredo)": ["2001::/32"],
    "an IPv4 address in disguise (6to4)": ["2002::/16"],
    "a 6to4 relay": ["192.88.99.0/24"],
    "reserved for protocols": ["192.0.0.0/24", "2001::/23"],
    "for documentation": ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"],
    "for benchmarks": ["198.18.0.0/15"],
    "multicast": ["224.0.0.0/4", "ff00::/8"],
    "reserved": ["240.0.0.0/4"],
}
_NETWORKS = [(ip_network(network), purpose) for purpose, networks in _SPECIAL.items() for network in networks]
_UNICAST_6 = IPv6Network("2000::/3")  # the allocated part of the address space


class Refused(OSError):
    """A URL or an address that must not be called. Clients receive the message. aiohttp expects OSErrors from connecting."""


class Guard:
    """Permits http and https to public addresses at `ports`, and to the networks of `allow` at any port."""

    def __init__(self, allow: Collection[Network] = (), ports: Collection[int] = PORTS):
        self._allow = tuple(allow)
        self._ports = frozenset(ports)

    def check(self, url: str) -> None:
        """Check a URL as text; names are not resolved. Raises Refused: it is forbidden, or not in the plain form."""
        host, port = split(url)
        literal = _literal(host)
        if literal is not None:
            self.permit(literal, port)
        elif host == "localhost" or host.endswith(".localhost"):  # RFC 6761
            self.permit(IPv4Address("127.0.0.1"), port)
        elif not self._allow:  # otherwise the address may be allowed at any port
            self._permit_port(port)

    def permit(self, address: IPv4Address | IPv6Address | str, port: int) -> None:
        """Check the address of a connection before it is opened. Raises Refused: it is forbidden."""
        ip = ip_address(address.partition("%")[0]) if isinstance(address, str) else address
        if any(ip in network for network in self._allow):
            return
        purpose = next((purpose for network, purpose in _NETWORKS if ip in network), None)
        if purpose is None and ip.version == 6 and ip not in _UNICAST_6:
            purpose = "not allocated"
        if purpose is not None:
            raise Refused(f"the address {ip} is {purpose}; it is not on this installation's allow-list")
        self._permit_port(port)

    def _permit_port(self, port: int) -> None:
        if port not in self._ports:
            raise Refused(f"the port {port} is not allowed; allowed ports: {', '.join(map(str, sorted(self._ports)))}")


def split(url: str) -> tuple[str, int]:
    """Host (lower case, an IPv6 address without brackets) and port of a URL in plain form. Raises Refused."""
    if len(url) > MAX_URL:
        raise Refused(f"must have at most {MAX_URL} characters")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _PORT_OF:
        raise Refused("must begin with https:// or http://")
    if "#" in rest:
        raise Refused("must not have a fragment")
    if not _TEXT.fullmatch(rest) or re.search("%(?![0-9A-Fa-f]{2})", rest):
        raise Refused("must be plain ASCII; percent-encode other characters, and write names in punycode")
    authority = re.split("[/?]", rest, maxsplit=1)[0].lower()
    if "@" in authority:
        raise Refused("must not have credentials")
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?", authority)
    if match is None or int(match[2] or 80) > 65_535:
        raise Refused("must have a host, and no port or one from 1 to 65535")
    return _host(match[1]), int(match[2] or _PORT_OF[scheme.lower()])


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError as error:
            raise Refused(f"{text} is not an IPv6 address") from error
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise Refused("the host is not a name or an address")
    # Most parsers read a host that ends in a number as an IPv4 address. Only the dotted form is accepted.
    if re.fullmatch("[0-9]+|0x[0-9a-f]*", text.rpartition(".")[2]) and _literal(text) is None:
        raise Refused("the host is not an IPv4 address of the form 192.0.2.1")
    return text


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
