"""Addresses, networks and URLs of the policy file, read from their source text.

Every reader raises ValueError with a message that says what is wanted.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from policies.config.kind import ScalarKind
from policies.config.mistakes import quoted
from policies.config.store_url import read_target

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?\.?")
_STORES: Final = ("memory", "redis", "rediss", "redis+sentinel", "redis+cluster", "redis+unix")


@dataclass(frozen=True, slots=True)
class Address:
    """Listening address: a host (without brackets) with a port, 0 meaning any free one; or the path of a Unix
    socket."""

    host: str = ""
    port: int = 0
    unix: str | None = None

    @property
    def is_local(self) -> bool:
        """Return whether only programs on this machine can connect: a loopback address, or the path of a Unix
        socket."""
        if self.unix is not None or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.unix is not None:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _read_host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if not _HOST.fullmatch(text):
            raise ValueError(f"expected a host's name or address, found {quoted(text)}") from None
        return text


def read_address(text: str) -> Address:
    """`127.0.0.1:8080`, `[::1]:8080`, `gateway.local:0` or `unix:PATH`."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:") or "\0" in text:
            raise ValueError("expected unix:PATH")
        return Address(unix=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not re.fullmatch("0|[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, [IPV6]:PORT or unix:PATH, found {quoted(text)}")
    if not host:
        raise ValueError(f"names no host: 0.0.0.0:{port} is every IPv4 address of this machine, [::]:{port} also IPv6")
    if host.startswith("[") and host.endswith("]"):
        return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    return Address(_read_host(host), int(port))


def _read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"expected a network such as 10.0.0.0/8 or ::1/128: {error}") from None


def _split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    # urlsplit silently takes tabs and newlines out, so they are looked for in the text.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(f"expected a URL, found {quoted(text)}")
    parts = urlsplit(text)
    if parts.scheme not in schemes or not text.startswith(f"{parts.scheme}://"):
        begins = " or ".join(f"{name}://" for name in schemes)
        # What may hold a password is not repeated: the message goes to logs.
        found = "something else" if "@" in text else quoted(text)
        raise ValueError(f"expected a URL that begins with {begins}, found {found}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL here holds no user or password: secrets have a key of their own")
    return parts


def _check_origin(text: str, parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"expected a port from 1 to 65535 in {quoted(text)}")
    if not parts.hostname:
        raise ValueError(f"names no host: {quoted(text)}")
    _read_host(parts.hostname)
    if "?" in text or "#" in text:
        raise ValueError(f"a URL here has no query and no fragment, found {quoted(text)}")


def read_base_url(text: str) -> str:
    """`http://host:8000` or `https://host/base`: scheme and host in lower case, no slash at the end."""
    parts = _split_url(text, ("http", "https"))
    _check_origin(text, parts)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _read_url(text: str) -> str:
    parts = _split_url(text, ("http", "https"))
    if not parts.hostname:
        raise ValueError(f"names no host: {quoted(text)}")
    return text


def _read_store_url(text: str) -> str:
    parts = _split_url(text, _STORES)
    if parts.scheme == "memory" and text != "memory://":
        raise ValueError(f"expected memory:// alone, found {quoted(text)}")
    if parts.scheme != "memory":
        read_target(text)
    return text


ADDRESS: Final = ScalarKind("HOST:PORT, [IPV6]:PORT or unix:PATH", read_address, {"type": "string"}, str)
NETWORK: Final = ScalarKind("a network such as 10.0.0.0/8", _read_network, {"type": "string"}, str)
BASE_URL: Final = ScalarKind(
    "a URL such as http://10.0.0.11:8000", read_base_url, {"type": "string", "pattern": "^https?://"}
)
URL: Final = ScalarKind("a URL", _read_url, {"type": "string", "pattern": "^https?://"})
STORE_URL: Final = ScalarKind(
    "a store's URL",
    _read_store_url,
    {"type": "string", "pattern": "^(memory|redis|rediss|redis\\+(sentinel|cluster|unix))://"},
)
HOST: Final = ScalarKind("a host's name or address", _read_host, {"type": "string"})
