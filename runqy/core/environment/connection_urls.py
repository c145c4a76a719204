"""Parse the URLs of this server, of Redis and of the database, and IP addresses of clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from runqy.core.formats import durations
from runqy.errors import choices_error

_MODES = {"": "single", "+sentinel": "sentinel", "+cluster": "cluster"}
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_REDIS_OPTIONS = {"master", "ca", "sentinel_username", "sentinel_password"}
_HINT = "; special characters in a password, such as / @ : ? # [ and ], must be percent-encoded"
POSTGRESQL_LIMITS = {
    "connect_timeout": 3,  # s
    "tcp_user_timeout": 5000,  # ms until sent data must be acknowledged
    "keepalives_idle": 5,  # s without traffic before the peer is probed
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "statement_timeout_s": 10,
}
"""Timeouts of PostgreSQL and the network. Options of the URL override them."""
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTarget:
    """The address of Redis and the credentials for it."""

    addresses: tuple[tuple[str, int], ...]
    """Host and port of the server, the Sentinels, or some nodes of the cluster."""
    mode: str = "single"
    """`single`, `sentinel` or `cluster`."""
    username: str = ""
    password: str = ""
    db: int = 0
    use_tls: bool = False
    ca_certificate: str = ""
    """PEM text or the path of a file; empty: the system's authorities."""
    master_name: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""

    def __repr__(self) -> str:
        # Without credentials, which must not reach a log.
        addresses = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"<RedisTarget {self.mode} {addresses}/{self.db}>"


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """Return an IP address; an IPv4-mapped one (`::ffff:192.0.2.1`) as IPv4. Raise ValueError."""
    address = ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def parse_public_url(url: str) -> str:
    """Return the scheme and host at which browsers reach this server, without a slash at the end. Raise ValueError."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.username is not None:
        raise ValueError("expected http://host or https://host")
    if url.rstrip("/") != origin:
        raise ValueError(f"expected {parts.scheme}://host without a path")
    return origin


def parse_origins(text: str) -> tuple[str, ...]:
    """Return the origins of a comma-separated list, spelled as browsers send them. Raise ValueError."""
    return tuple(parse_public_url(word.strip().lower()) for word in text.split(",") if word.strip())


def parse_redis_url(url: str) -> RedisTarget:
    """Return the target of a URL. Raise ValueError with the reason, which never contains the password.

    `redis://[user:password@]host:port/db`, `redis+sentinel://h1:p1,h2:p2/db?master=name` or
    `redis+cluster://h1:p1,h2:p2`. `rediss…` means TLS, with `?ca=/path/to/authority.pem` for a private certificate
    authority.
    """
    parts = _split(url)
    base, plus, kind = parts.scheme.partition("+")
    if base not in ("redis", "rediss") or plus + kind not in _MODES:
        raise ValueError("the URL must begin with redis://, rediss://, redis+sentinel:// or redis+cluster://")
    mode = _MODES[plus + kind]
    credentials, _, hosts = parts.netloc.rpartition("@")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(options.keys() - _REDIS_OPTIONS):
        raise ValueError(f"the URL has an unknown option {unknown[0]}; valid are {', '.join(sorted(_REDIS_OPTIONS))}")
    if mode == "sentinel" and not options.get("master"):
        raise ValueError("a redis+sentinel:// URL must name its master: ?master=mymaster")
    username, _, password = credentials.partition(":")
    return RedisTarget(
        addresses=tuple(_address(host, _PORTS[mode]) for host in hosts.split(",")),
        mode=mode,
        username=unquote(username),
        password=unquote(password),
        db=_database_number(parts.path, mode),
        use_tls=base == "rediss",
        ca_certificate=_authority(options.get("ca", "")),
        master_name=options.get("master", ""),
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
    )


def _split(url: str) -> SplitResult:
    """Raise ValueError without urllib's reason, which may contain the password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    # After a / ? or # in a password, the rest is taken for the path, the query or the fragment.
    if parts is None or (parts.netloc and (parts.fragment or ("@" in url and "@" not in parts.netloc))):
        raise ValueError(f"the URL is invalid{_HINT}")
    return parts


def _port(parts: SplitResult, default: int) -> int:
    """Raise ValueError without the text of the port, which may be a part of the password."""
    try:
        return parts.port or default
    except ValueError:
        raise ValueError(f"a port in the URL is not a number up to 65535{_HINT}") from None


def _address(text: str, default_port: int) -> tuple[str, int]:
    parts = _split(f"//{text}")  # urllib reads IPv6 addresses in brackets
    port = _port(parts, default_port)
    if not parts.hostname:
        raise ValueError(f"the URL has no host{_HINT}")
    return parts.hostname, port


def _database_number(path: str, mode: str) -> int:
    text = path.strip("/") or "0"
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the path of the URL is not a database number{_HINT}")
    if mode == "cluster" and int(text):
        raise ValueError("a cluster has only database 0")
    return int(text)


def _authority(path: str) -> str:
    """Return the text of a certificate authority. The text, not the path, is sent to workers."""
    if not path:
        return ""
    try:
        return Path(path).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the certificate authority {path} cannot be read") from None


def parse_database_url(url: str) -> dict[str, Any]:
    """Return Django's settings for a `postgresql://` or `sqlite:///` URL.

    Raise ValueError with the reason, which never contains the password.
    """
    parts = _split(url)
    if parts.scheme in ("postgres", "postgresql"):
        return _postgresql(parts)
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        return {"NAME": unquote(parts.path[1:])}
    raise ValueError("the URL must begin with postgresql:// or sqlite:///")


def _postgresql(parts: SplitResult) -> dict[str, Any]:
    """Return Django's settings for a PostgreSQL URL. Its query is passed to libpq, except for `statement_timeout`."""
    options: dict[str, Any] = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if "statement_timeout" in options:
        options["statement_timeout_s"] = durations.parse_s(options.pop("statement_timeout"))
    return postgresql_settings(
        host=unquote(parts.hostname or ""),
        port=_port(parts, 5432),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        name=unquote(parts.path.lstrip("/")) or "runqy",
        options=options,
    )


def postgresql_settings(*, options: Mapping[str, Any], **connection: Any) -> dict[str, Any]:
    return {
        "ENGINE": "runqy.core.database.postgresql",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**POSTGRESQL_LIMITS, **options},
        **{name.upper(): value for name, value in connection.items()},
    }


def parse_ssl_mode(text: str) -> str:
    """Return a libpq `sslmode`. For true it is require, for false disable. Raise ValueError."""
    word = {"true": "require", "1": "require", "false": "disable", "0": "disable"}.get(text.lower(), text.lower())
    if word not in _SSL_MODES:
        raise ValueError(choices_error(("true", "false", *_SSL_MODES)).removesuffix("."))
    return word
