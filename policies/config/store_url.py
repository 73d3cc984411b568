"""Reader of the store's URL (policy key `store.url`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """Parts of a store's URL.

    nodes: servers, Sentinels or some of a Cluster's nodes; one without a port for a Unix socket
    service: what Sentinels call the server
    """

    form: Literal["single", "unix", "sentinel", "cluster"]
    nodes: Sequence[tuple[str, int]]
    tls: bool = False
    database: int = 0
    service: str = ""


def read_target(url: str) -> StoreTarget:
    """Return the parts of a store's URL; raise ValueError if the URL cannot be used.

    redis://HOST[:PORT][/DATABASE], rediss://..., redis+unix:///PATH[?db=DATABASE],
    redis+sentinel://HOST[:PORT],HOST[:PORT].../SERVICE[/DATABASE], redis+cluster://HOST[:PORT],...
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme == "redis+unix":
        number = parts.query.removeprefix("db=") or "0"
        if not path or not number.isdecimal():
            raise ValueError("expected redis+unix:///PATH or redis+unix:///PATH?db=NUMBER")
        return StoreTarget("unix", [(path, 0)], database=int(number))
    default = 26379 if parts.scheme == "redis+sentinel" else 6379
    nodes = [_node(text, default) for text in parts.netloc.split(",")]
    names = [name for name in path.split("/") if name]
    service = ""
    if parts.scheme == "redis+sentinel":
        if not names:
            raise ValueError("expected redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, found no service")
        service = names.pop(0)
    if len(names) > 1 or not all(name.isdecimal() for name in names) or parts.query:
        raise ValueError("after the hosts a store's URL names a database at most, as in /0")
    database = int(names[0]) if names else 0
    if parts.scheme == "redis+cluster":
        if database:
            raise ValueError("a Cluster has database 0 only")
        return StoreTarget("cluster", nodes)
    if service:
        return StoreTarget("sentinel", nodes, database=database, service=service)
    if len(nodes) > 1:
        raise ValueError("several hosts are redis+sentinel:// or redis+cluster://")
    return StoreTarget("single", nodes, tls=parts.scheme == "rediss", database=database)


def _node(text: str, port: int) -> tuple[str, int]:
    try:
        found = urlsplit(f"//{text}")
        host, own = found.hostname, found.port
    except ValueError:
        raise ValueError("expected HOST, HOST:PORT or [IPV6]:PORT, with a port from 1 to 65535") from None
    if not host or own == 0 or text.endswith(":"):
        raise ValueError("names no host" if not host else "expected a port from 1 to 65535")
    return host, own or port
