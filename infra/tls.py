"""The TLS parameters of service URLs, checked at start. The clients ignore unknown ones, and connect without TLS checks."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

_FILES = {  # the parameters of each scheme's client: libpq, aiormq or redis-py
    "postgresql": ("sslrootcert", "sslcert", "sslkey", "sslcrl"),
    "amqps": ("cafile", "certfile", "keyfile"),
    "rediss": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
}
_POSTGRES_VERIFIES = ("require", "verify-ca", "verify-full")


def check_tls(url: str) -> str:
    """Return the URL unchanged. Raises ValueError: its scheme does not support a TLS parameter, or a file does not exist."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    supported = _FILES.get("postgresql" if parts.scheme == "postgres" else parts.scheme, ())
    for scheme, names in _FILES.items():
        for name in query.keys() & set(names) - set(supported):
            raise ValueError(f"{name} is supported only in {scheme}:// URLs")
    for name in query.keys() & set(supported):
        if query[name] != "system" and not Path(query[name]).is_file():  # libpq's name for the system's authorities
            raise ValueError(f"{name}: the file {query[name]} does not exist")
    if "sslrootcert" in query and query.get("sslmode") not in _POSTGRES_VERIFIES:
        raise ValueError(f"sslrootcert requires sslmode={' or '.join(_POSTGRES_VERIFIES)}")
    return url
