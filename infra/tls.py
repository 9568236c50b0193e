"""TLS as the services' URLs ask for it, checked at start: the clients pass over a word that is not theirs, and go without.

Each scheme has its client's own words: libpq's, aiormq's, redis-py's.
"""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

_FILES = {
    "postgresql": ("sslrootcert", "sslcert", "sslkey", "sslcrl"),
    "amqps": ("cafile", "certfile", "keyfile"),
    "rediss": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
}
_POSTGRES_VERIFIES = ("require", "verify-ca", "verify-full")


def check_tls(url: str) -> str:
    """The URL as it is.

    Raises:
        ValueError: it names a certificate or key in words that its scheme does not heed, or a file that is not there.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    heeded = _FILES.get("postgresql" if parts.scheme == "postgres" else parts.scheme, ())
    for scheme, names in _FILES.items():
        for name in query.keys() & set(names) - set(heeded):
            raise ValueError(f"{name} is heeded in {scheme}:// URLs alone")
    for name in query.keys() & set(heeded):
        if query[name] != "system" and not Path(query[name]).is_file():  # libpq's word for the authorities of the system
            raise ValueError(f"{name}: there is no file {query[name]}")
    if "sslrootcert" in query and query.get("sslmode") not in _POSTGRES_VERIFIES:
        raise ValueError(f"sslrootcert is heeded with sslmode={' or '.join(_POSTGRES_VERIFIES)} alone")
    return url
