"""The whole policy file as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from policies.config.forms import NAME, PLAN_NAME, VERSION
from policies.config.settings.auth import AuthSettings, PlanSettings
from policies.config.settings.observe import ObserveSettings
from policies.config.settings.pools import PoolSettings
from policies.config.settings.routes import RouteSettings
from policies.config.settings.server import ServerSettings, StoreSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that an operator decides.

    version: version of this file's format
    server: the gateway itself
    store: state that all processes and replicas share
    auth: authentication of clients
    plans: rights of keys and tokens, by name of the plan
    pools: groups of endpoints, by name
    routes: models and paths for clients; the first match wins
    observe: logs, metrics and traces
    """

    version: Annotated[int, VERSION] = 1
    server: ServerSettings = field(default_factory=ServerSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    plans: Mapping[Annotated[str, PLAN_NAME], PlanSettings] = field(default_factory=dict)
    pools: Mapping[Annotated[str, NAME], PoolSettings]
    routes: tuple[RouteSettings, ...]
    observe: ObserveSettings = field(default_factory=ObserveSettings)
    path: str = field(default="", metadata={"key": False})
