"""Makes a finished table of a policy, of the workers as they are now, and of the keys."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from backends.control.table import EndpointSpec, Forced, PoolSpec, Table
from backends.workers.process import WorkerState
from backends.workers.supervisor import WorkerView
from policies.config.settings import EndpointSettings, Policy, PoolSettings
from policies.identity.authenticator import KeyRecord
from policies.identity.issuers import Issuer
from policies.identity.principal import principal_for

_NOBODY: Mapping[str, Forced] = MappingProxyType({})
# A worker that is asked to stop is started again, unless it leaves the table.
_COMING: Final = frozenset({WorkerState.STARTING, WorkerState.BACKING_OFF, WorkerState.STOPPING})


def build_table(
    policy: Policy, *, generation: int, workers: Sequence[WorkerView], keys: Mapping[bytes, KeyRecord],
    drained: Collection[str] = (), forced: Mapping[str, Forced] = _NOBODY, issuers: Sequence[Issuer] = (),
    keys_known: bool = True,
) -> Table:  # fmt: skip
    """The table of one moment. A worker is in it while it is ready; a listed endpoint always is, and what probes and
    outcomes say of it is the data plane's to know.

    drained: names of endpoints that get nothing new
    forced: by name, the state in which the operator holds an endpoint's breakers
    issuers: who issues tokens, each with the keys that hold now
    keys_known: whether the keys could be read
    """
    anonymous = policy.auth.anonymous
    return Table(
        generation=generation,
        pools={name: _pool(name, pool, workers, drained, forced) for name, pool in policy.pools.items()},
        routes=policy.routes,
        keys=keys,
        anonymous=None if anonymous is None else principal_for(policy.plans[anonymous], plan_name=anonymous),
        max_body=policy.server.max_body,
        trusted_proxies=tuple(str(network) for network in policy.server.trusted_proxies),
        plans=policy.plans,
        on_outage=policy.store.on_outage,
        issuers=tuple(issuers),
        keys_known=keys_known,
    )


def _pool(
    name: str, pool: PoolSettings, workers: Sequence[WorkerView], drained: Collection[str], forced: Mapping[str, Forced]
) -> PoolSpec:
    mine = [view for view in workers if view.pool == name]
    listed = [_listed(name, pool, endpoint) for endpoint in pool.endpoints]
    ready = [_worker(pool, view) for view in mine if view.state == "ready" and view.url is not None]
    known = tuple(spec.name for spec in listed) + tuple(view.name for view in mine)
    return PoolSpec(
        name,
        pool.engine,
        pool.balance,
        (*listed, *ready),
        known,
        ejection=pool.ejection,
        breaker=pool.breaker,
        slow_start=pool.slow_start,
        drained=frozenset(known).intersection(drained),
        forced={one: forced[one] for one in known if one in forced},
        version=pool.version,
        max_context=pool.max_context,
        max_in_flight=pool.max_in_flight,
        most={one.name: one.max_in_flight for one in pool.endpoints if one.max_in_flight is not None},
        queue=pool.queue,
        coming=any(view.state in _COMING for view in mine),
    )


def _listed(pool_name: str, pool: PoolSettings, endpoint: EndpointSettings) -> EndpointSpec:
    url = urlsplit(endpoint.url)
    secure = url.scheme == "https"
    return EndpointSpec(
        name=endpoint.name,
        pool=pool_name,
        host=url.hostname or "",
        port=url.port or (443 if secure else 80),
        base_path=url.path.rstrip("/"),
        tls=secure,
        ca=endpoint.tls.ca if endpoint.tls is not None else None,
        server_name=endpoint.tls.server_name if endpoint.tls is not None else None,
        weight=endpoint.weight,
        headers=tuple(endpoint.headers.items()),
        api_key=pool.api_key.value if pool.api_key is not None else None,
        keep_alive=pool.keep_alive,
    )


def _worker(pool: PoolSettings, view: WorkerView) -> EndpointSpec:
    url = urlsplit(view.url or "")
    return EndpointSpec(
        name=view.name,
        pool=view.pool,
        host=url.hostname or "",
        port=url.port or 80,
        api_key=pool.api_key.value if pool.api_key is not None else None,
        keep_alive=pool.keep_alive,
        incarnation=view.starts,
    )
