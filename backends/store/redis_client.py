"""The door to redis-py and hiredis: finds the server that holds our keys, logs in there, and hands on the bare
connection with a parser of its replies. What is sent over it is `redis_link`'s.

redis-py's own way of sending costs 44 to 80 us a call; on the connection that it has made it costs a write a tick.
Nothing here tries a second time: what failed is said, as one of `Kind`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backends.store.redis_errors import UNFINISHED, GarbageError, Kind, ReplyError, StoreLostError
from policies.config.store_url import StoreTarget

CONNECT_TIMEOUT: Final = 1.0
"""Seconds for finding the server, connecting and logging in: nobody waits for it but the background."""
_LEAVE_TIMEOUT: Final = 0.1
_ASK_TIMEOUT: Final = 0.4
"""Seconds for one Sentinel or one node of a Cluster to say who holds our keys."""


class ReplyParser(Protocol):
    """Takes replies out of bytes."""

    def feed(self, data: bytes, /) -> None: ...
    def gets(self) -> Any:
        """The next reply, a ReplyError among them; UNFINISHED; raises GarbageError."""


@dataclass(frozen=True, slots=True)
class OpenedConnection:
    """A connection that is logged in and idle. Its transport takes another protocol.

    keeper: closes the connection when nobody holds it
    """

    transport: asyncio.Transport
    reader: ReplyParser
    keeper: object


class RedisClient:
    """Connections to the server that holds one key, wherever that is now."""

    def __init__(self, target: StoreTarget, password: str | None, key: str) -> None:
        """key: on a Cluster all that is asked for must be in this key's slot"""
        self._target = target
        self._options: dict[str, Any] = {
            "password": password,
            "protocol": 2,
            "driver_info": None,
            "socket_timeout": CONNECT_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            # One try. An idle connection is not pinged either.
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        self._slot = key_slot(key.encode())
        self._cluster = list(target.nodes)

    async def open(self) -> OpenedConnection:
        """A connection to the server that is in charge. Raises StoreLostError, after CONNECT_TIMEOUT at the latest."""
        async with _foreign(), asyncio.timeout(CONNECT_TIMEOUT):
            connection = await self._connection()
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                return _opened(connection)
            except BaseException:
                await _abort(connection)
                raise

    async def _connection(self) -> AbstractConnection:
        target, options = self._target, {**self._options, "db": self._target.database}
        if target.form == "unix":
            return UnixDomainSocketConnection(path=target.nodes[0][0], **options)
        if target.form == "sentinel":
            host, port = await self._master()
        elif target.form == "cluster":
            host, port = await self._owner()
        else:
            host, port = target.nodes[0]
        return (SSLConnection if target.tls else Connection)(host=host, port=port, **options)

    async def _master(self) -> tuple[str, int]:
        """Return the address of the primary, by the Sentinels."""

        async def ask(host: str, port: int) -> tuple[str, int]:
            # Sentinels have no password of the store's, and none of their own here.
            said = await self._said(host, port, {"password": None}, "SENTINEL", "MASTER", self._target.service)
            told = dict(zip(said[::2], said[1::2], strict=True))
            flags = told[b"flags"].decode().split(",")
            if "master" not in flags or "s_down" in flags or "o_down" in flags:
                raise StoreLostError("connection", f"the Sentinels take it for {','.join(flags)}")
            return told[b"ip"].decode(), int(told[b"port"])

        return await _first(self._target.nodes, ask)

    async def _owner(self) -> tuple[str, int]:
        """Return the address of the slot's owner, by the nodes of the Cluster."""
        return await _first(self._cluster, self._ask)

    async def _ask(self, host: str, port: int) -> tuple[str, int]:
        ranges = await self._said(host, port, {}, "CLUSTER", "SLOTS")
        owner: tuple[str, int] | None = None
        known = dict.fromkeys(self._target.nodes)
        for low, high, *holders in ranges:
            # A node that does not know its own name leaves it empty: it is the one that was asked.
            nodes = [(one[0].decode() if one[0] else host, int(one[1])) for one in holders]
            known.update(dict.fromkeys(nodes))
            if low <= self._slot <= high:
                owner = nodes[0]
        if owner is None:
            raise StoreLostError("moved", f"nobody holds slot {self._slot}")
        self._cluster = list(known)
        return owner

    async def _said(self, host: str, port: int, options: Mapping[str, Any], *words: str) -> Any:
        """One command's reply, over a connection of its own."""
        async with _foreign(), asyncio.timeout(_ASK_TIMEOUT):
            # Not by redis-py's clients, its Sentinel among them: cancelled while they connect, they leave it open.
            connection = Connection(host=host, port=port, **{**self._options, **options})
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command(*words)
                return await connection.read_response()
            finally:
                await _abort(connection)


async def _first(
    nodes: Sequence[tuple[str, int]], ask: Callable[[str, int], Coroutine[Any, Any, tuple[str, int]]]
) -> tuple[str, int]:
    """Return the first answer of any node; a frozen node delays none. Raises StoreLostError."""
    loop = asyncio.get_running_loop()
    asking = [loop.create_task(ask(*node), name="who holds our keys") for node in nodes]
    waiting, failure = set(asking), StoreLostError("connection", "nobody says who holds our keys")
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if isinstance(error, StoreLostError):
                    failure = error
        raise failure
    finally:
        for task in asking:
            task.cancel()
        # Those that have failed are looked at as well, or the loop would complain of them.
        await asyncio.gather(*asking, return_exceptions=True)


async def _abort(connection: AbstractConnection) -> None:
    """End a connection that came to nothing, whatever the other side does."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)
    if writer is not None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT):
                await writer.wait_closed()


def _opened(connection: AbstractConnection) -> OpenedConnection:
    writer = connection._writer
    assert writer is not None, "it is connected"
    # The connection forgets it, and would close it otherwise.
    connection._reader = connection._writer = None
    reader = hiredis.Reader(protocolError=GarbageError, replyError=ReplyError, notEnoughData=UNFINISHED)
    transport = writer.transport
    return OpenedConnection(cast(asyncio.Transport, transport), reader, writer)


@asynccontextmanager
async def _foreign() -> Any:
    """Convert the errors of redis-py and of sockets."""
    try:
        yield
    except StoreLostError:
        raise
    except (TimeoutError, RedisTimeoutError) as error:
        raise StoreLostError("timeout", "no answer in time") from error
    except RedisError as error:
        # redis-py takes the first word away where it has a class for it.
        raise StoreLostError(_kind(error), str(error)) from error
    except OSError as error:
        raise StoreLostError("connection", str(error)) from error
    except Exception as error:
        # What it makes of replies that are none can be anything.
        raise StoreLostError("other", repr(error)) from error


_CLASSES: Final[Mapping[str, Kind]] = {
    "ReadOnlyError": "readonly",
    "BusyLoadingError": "loading",
    "OutOfMemoryError": "oom",
    "AuthenticationError": "noauth",
    "AuthenticationWrongNumberOfArgsError": "noauth",
    "NoPermissionError": "noauth",
    "AuthorizationError": "noauth",
    "MovedError": "moved",
    "AskError": "moved",
    "ClusterDownError": "moved",
    "TryAgainError": "moved",
}


def _kind(error: RedisError) -> Kind:
    for cls in type(error).__mro__:
        if cls.__name__ in _CLASSES:
            return _CLASSES[cls.__name__]
    found = ReplyError(str(error)).kind
    connection = any(cls.__name__ == "ConnectionError" for cls in type(error).__mro__)
    return "connection" if found == "other" and connection else found
