"""Table: the frozen values that the control plane passes to the data plane. They can be pickled, so that the two may
live in different processes.

A `Table` is the whole of what the data plane knows. It is never changed, only replaced: one reference is swapped, and
exchanges under way keep the one
they began with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from policies.config.settings import PlanSettings, RouteSettings
from policies.config.settings.pools import BreakerSettings, EjectionSettings, QueueSettings
from policies.identity.authenticator import KeyRecord
from policies.identity.issuers import Issuer
from policies.identity.principal import Principal
from policies.limits import Outage

Forced = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One base URL. Two equal specs are the same endpoint: its connections and counts live on across tables."""

    name: str
    pool: str
    host: str
    port: int
    base_path: str = ""
    """Prefix of the client's path, without a slash at its end."""
    tls: bool = False
    ca: str | None = None
    """A file of certificate authorities; None is the system's."""
    server_name: str | None = None
    weight: float = 1.0
    headers: tuple[tuple[str, str], ...] = ()
    api_key: str | None = field(default=None, repr=False)
    keep_alive: float = 4.0
    """Seconds that an idle connection is kept."""
    incarnation: int = 0
    """Number of the worker's start: a restarted worker is another endpoint behind the same name."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool with the endpoints that may be tried now (`endpoints`) and those that exist (`known`, by name)."""

    name: str
    engine: str
    balance: str
    endpoints: tuple[EndpointSpec, ...]
    known: tuple[str, ...]
    ejection: EjectionSettings | None = None
    breaker: BreakerSettings | None = None
    slow_start: float | None = None
    """Seconds in which the share of an endpoint that came back grows."""
    drained: frozenset[str] = frozenset()
    """Names of endpoints that get nothing new, by the operator's word."""
    forced: Mapping[str, Forced] = field(default_factory=dict)
    """By name, the state in which the operator holds an endpoint's breakers."""
    version: str = "1"
    """Version of the model: answers of another version are other answers."""
    max_context: int | None = None
    """Most tokens of a prompt."""
    max_in_flight: int | Literal["auto"] | None = None
    """Most requests at a time."""
    most: Mapping[str, int] = field(default_factory=dict)
    """By name, the most attempts at a time of the endpoints that have a bound of their own."""
    queue: QueueSettings | None = None
    coming: bool = False
    """True while a worker is starting."""

    @property
    def bounded(self) -> bool:
        """True if the pool bounds its requests in flight."""
        return self.max_in_flight is not None or bool(self.most)


@dataclass(frozen=True, slots=True)
class Table:
    """One finished state of the world. `generation` counts the policies in force since the start."""

    generation: int
    pools: Mapping[str, PoolSpec]
    routes: tuple[RouteSettings, ...]
    keys: Mapping[bytes, KeyRecord] = field(repr=False)
    """SHA-256 of a key -> whom it proves."""
    anonymous: Principal | None
    max_body: int
    trusted_proxies: tuple[str, ...]
    plans: Mapping[str, PlanSettings] = field(default_factory=dict)
    on_outage: Outage = "local"
    """Outage policy of limits that set none of their own."""
    issuers: tuple[Issuer, ...] = ()
    """Issuers of tokens, each with its present keys."""
    keys_known: bool = True
    """False while `keys` could not be read: then a key that is not among them may be good."""
