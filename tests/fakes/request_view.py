"""Request as a balancing strategy sees it (`policies.balancing.RequestView`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.identity.principal import Principal


@dataclass(frozen=True)
class FakeRequest:
    """Facts of one request; by default one for model `m` of an anonymous client."""

    model: str | None = "m"
    principal: Principal | None = None
    fields: Mapping[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
