"""Settings of the gateway itself and of the shared store (policy key `server`, `store`)."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from policies.config.addresses import ADDRESS, NETWORK, STORE_URL, Address
from policies.config.forms import NAME, PATH, PROCESSES, TEXT
from policies.config.settings.secret import Secret
from policies.config.units import SECONDS, SECONDS_ABOVE_0, SIZE

_WILDCARDS = {"0.0.0.0", "::"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTlsSettings:
    """The gateway's own certificate, read again when the files change.

    cert: PEM file with the certificate chain
    key: PEM file with its private key
    """

    cert: Annotated[str, PATH]
    key: Annotated[str, PATH]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsSettings:
    """Browsers from other origins.

    origins: origins that may call, such as https://app.example.com
    """

    origins: tuple[Annotated[str, TEXT], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Read at start; a change here needs a restart.

    listen: where clients connect: HOST:PORT, [IPV6]:PORT or unix:PATH
    admin: where /healthz, /readyz, /metrics and the API are
    admin_token: token of the API, needed as soon as admin is not loopback
    processes: data-plane processes; auto is one per core
    max_body: largest request body
    max_head: largest request head
    header_timeout: a client must finish its request head in this time
    body_timeout: and its body in this
    write_timeout: a client that reads nothing for so long is given up
    lame_duck: after SIGTERM: not ready any more, but new work is still taken
    drain: then open streams may finish for so long
    trusted_proxies: networks whose X-Forwarded-For and X-Request-Id are believed
    tls: {cert, key}; nginx normally ends TLS
    cors: {origins}
    """

    listen: Annotated[Address, ADDRESS] = field(default=Address("127.0.0.1", 8080))
    admin: Annotated[Address, ADDRESS] = field(default=Address("127.0.0.1", 9901))
    admin_token: Secret | None = None
    processes: Annotated[int | Literal["auto"], PROCESSES] = 1
    max_body: Annotated[int, SIZE] = 16 << 20
    max_head: Annotated[int, SIZE] = 32 << 10
    header_timeout: Annotated[float, SECONDS_ABOVE_0] | None = 10.0
    body_timeout: Annotated[float, SECONDS_ABOVE_0] | None = 60.0
    write_timeout: Annotated[float, SECONDS_ABOVE_0] | None = 60.0
    lame_duck: Annotated[float, SECONDS] | None = 2.0
    drain: Annotated[float, SECONDS] | None = 30.0
    trusted_proxies: tuple[Annotated[IPv4Network | IPv6Network, NETWORK], ...] = (
        ip_network("127.0.0.1/32"),
        ip_network("::1/128"),
    )
    tls: ServerTlsSettings | None = None
    cors: CorsSettings | None = None

    def __post_init__(self) -> None:
        if _same_socket(self.listen, self.admin):
            raise ValueError(f"listen and admin are both {self.admin}: they need an address each")
        if self.admin_token is None and not self.admin.is_local:
            raise ValueError(f"admin_token is needed as soon as admin is not loopback, and admin is {self.admin}")


def _same_socket(one: Address, other: Address) -> bool:
    """Return whether the second bind would fail; port 0 is a free port every time."""
    if one.unix is not None or other.unix is not None:
        return one.unix == other.unix
    hosts = {one.host, other.host}
    return one.port == other.port != 0 and (len(hosts) == 1 or bool(hosts & _WILDCARDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """State that all processes and replicas share.

    url: memory:// (one process, one replica), redis://host:6379/0, rediss://, redis+sentinel://, redis+cluster://, redis+unix://
    password: the store's password
    prefix: begins the name of every key in the store
    timeout: what a request waits for the store, at most
    on_outage: while the store is away: local (this process's share of the limit), open or closed
    cache_size: what a process's memory may hold of cached answers, with memory://; Redis has a bound of its own
    """

    url: Annotated[str, STORE_URL] = "memory://"
    password: Secret | None = None
    prefix: Annotated[str, NAME] = "sluice"
    timeout: Annotated[float, SECONDS_ABOVE_0] = 0.05
    on_outage: Literal["local", "open", "closed"] = "local"
    cache_size: Annotated[int, SIZE] = 256 << 20
