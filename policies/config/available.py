"""List of the keys and values of the policy reference that this version does not implement yet.

A mechanism that is not built yet is accepted when it is off or at its default, and else refused with its path: a key is
never ignored. In a path `*` is a name and `[]` a place in a list.
"""

from collections.abc import Mapping
from typing import Any, Final

from policies.balancing import STRATEGIES

NOT_BUILT: Final = frozenset(
    """
    server.tls server.cors
    pools.*.discover pools.*.hash_on pools.*.on_disconnect
    pools.*.scrape
    pools.*.endpoints[].tags
    pools.*.workers.warm_up pools.*.workers.restart.crash_loop pools.*.workers.stop.drain pools.*.workers.autoscale
    routes[].match routes[].canary routes[].shadow
    observe.access_log.format observe.tracing
    """.split()
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


# Keys that are built for some of their values: what those values are called, and which they are.
_PARTLY_BUILT: Final[Mapping[str, tuple[str, Any]]] = {
    "server.processes": ("1", lambda value: value == 1),
    "pools.*.balance": (", ".join(STRATEGIES), STRATEGIES.__contains__),
    "pools.*.workers.count": ("a number", _is_number),
    "pools.*.workers.gpus": ("auto, none", _is_word),
}


def partly_built(path: str, value: Any) -> str | None:
    """None when this version does `value` at `path`, else the values that it does."""
    if path not in _PARTLY_BUILT:
        return None
    names, accepts = _PARTLY_BUILT[path]
    return None if accepts(value) else names
