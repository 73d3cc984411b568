"""The whole policy file as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from policies.config.forms import NAME, PLAN_NAME, VERSION
from policies.config.settings.auth import Auth, Plan
from policies.config.settings.observe import Observe
from policies.config.settings.pools import Pool
from policies.config.settings.routes import Route
from policies.config.settings.server import Server, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that an operator decides.

    version: version of this file's format
    server: the gateway itself
    store: state that all processes and replicas share
    auth: how clients prove who they are
    plans: what a key or a token entitles to, by name
    pools: who can answer, by name
    routes: what clients may ask for; the first match wins
    observe: logs, metrics and traces
    """

    version: Annotated[int, VERSION] = 1
    server: Server = field(default_factory=Server)
    store: Store = field(default_factory=Store)
    auth: Auth = field(default_factory=Auth)
    plans: Mapping[Annotated[str, PLAN_NAME], Plan] = field(default_factory=dict)
    pools: Mapping[Annotated[str, NAME], Pool]
    routes: tuple[Route, ...]
    observe: Observe = field(default_factory=Observe)
    path: str = field(default="", metadata={"key": False})
