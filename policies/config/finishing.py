"""The last step of loading: what hangs on where the policy file stands, or on more than one of its keys."""

from dataclasses import dataclass, replace
from pathlib import Path

from policies.config import references
from policies.config.addresses import Address
from policies.config.kind import ScalarKind
from policies.config.nodes import OFF
from policies.config.secrets import SecretSource
from policies.config.settings import AuthSettings, Policy, PoolSettings
from policies.config.settings.workers import VLLM


@dataclass(frozen=True, slots=True)
class FinishingPlace:
    """Folder of the policy file, and the source of its secrets (None: secrets are not loaded)."""

    folder: Path
    secrets: SecretSource | None

    def path(self, kind: ScalarKind, text: str) -> str:
        if text in kind.not_paths:
            return text
        return str(self.folder / text)

    def address(self, address: Address) -> Address:
        return address if address.unix is None else replace(address, unix=str(self.folder / address.unix))


class Finisher:
    """Fills in what hangs on more than one key, or on where the file stands."""

    def __init__(self, place: FinishingPlace) -> None:
        self._place = place

    def policy(self, policy: Policy, path: str) -> Policy:
        pools = {name: self._pool(name, pool) for name, pool in policy.pools.items()}
        log = policy.observe.access_log
        observe = replace(policy.observe, access_log=None) if log is not None and log.path in OFF else policy.observe
        listen, admin = self._place.address(policy.server.listen), self._place.address(policy.server.admin)
        server = replace(policy.server, listen=listen, admin=admin)
        return replace(policy, server=server, auth=self._auth(policy.auth), pools=pools, observe=observe, path=path)

    def _auth(self, auth: AuthSettings) -> AuthSettings:
        """The default keys file lies beside the policy file, as a written one would."""
        keys_file = auth.api_keys
        if keys_file is None or keys_file.file is None:
            return auth
        return replace(auth, api_keys=replace(keys_file, file=str(self._place.folder / keys_file.file)))

    def _pool(self, name: str, pool: PoolSettings) -> PoolSettings:
        endpoints = tuple(
            endpoint if endpoint.name else replace(endpoint, name=references.endpoint_name(name, index))
            for index, endpoint in enumerate(pool.endpoints)
        )
        workers = pool.workers
        if workers is not None and pool.engine == "simulator" and workers.command == VLLM:
            workers = replace(workers, command=None)
        return replace(pool, endpoints=endpoints, workers=workers)
