"""Principal of a credential and its rights, and the reasons for which a credential is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from policies.config.mistakes import known
from policies.globs import matches_any
from policies.identity.api_keys import FORWARDS_USER, KeyEntry

SCOPES = frozenset({"chat", "completions", "embeddings", "rerank", "audio", "predict", "engine_fields"})
DEFAULT_SCOPES = SCOPES - {"engine_fields"}


def read_scopes(names: Iterable[str]) -> frozenset[str]:
    """Names as scopes; ValueError says which one is none."""
    found = frozenset(names)
    if wrong := sorted(found - SCOPES):
        raise ValueError(f'no scope "{wrong[0]}" {known(sorted(SCOPES))}')
    return found


Reason = Literal[
    "missing", "malformed", "unknown", "expired", "revoked", "token_expired", "token_invalid", "claim_missing"
]


@dataclass(frozen=True, slots=True)
class Principal:
    """Identity and rights that the credential proves. All fields may be logged."""

    key: str
    """Id of the key, `anonymous` without one; of a token `<issuer>/<sub>`."""
    tenant: str
    plan: str
    scopes: frozenset[str] = DEFAULT_SCOPES
    models: tuple[tuple[str, ...] | None, ...] = ()
    """Sets of globs (the plan's, the key's), each of which must allow the model; None allows all."""
    user: str | None = None
    """User of a token, `<issuer>/<sub>`; None where the key itself is the user."""
    forwards_user: bool = False
    """True if `per: user` counts the body's `user`: the key of an application that serves many users."""

    def user_of(self, said: str | None) -> str:
        """Return the user that a limit `per: user` counts; `said` is the body's `user`, trusted of a key that forwards
        users only. A key's users never meet another key's: neither keys nor issuers have a `:` in their names."""
        if self.user is not None:
            return self.user
        return f"{self.key}:{said}" if said and self.forwards_user else self.key

    def may_use(self, *names: str) -> bool:
        """Return whether every set of globs allows the model, under at least one of its names (alias, real name)."""
        # A plain loop: three times as fast as `all` of a generator, and it stands on every request's way.
        for globs in self.models:
            if globs is not None and not any(matches_any(name, globs) for name in names):
                return False
        return True


class PlanRights(Protocol):
    """Rights of a plan. None: all models; all scopes except `engine_fields`."""

    @property
    def models(self) -> Iterable[str] | None: ...
    @property
    def scopes(self) -> Iterable[str] | None: ...


def principal_for(
    plan: PlanRights,
    *,
    plan_name: str,
    key: str = "anonymous",
    tenant: str = "anonymous",
    entry: KeyEntry | None = None,
) -> Principal:
    """The principal that a plan makes, narrowed by a key where there is one."""
    scopes = DEFAULT_SCOPES if plan.scopes is None else frozenset(plan.scopes)
    models: tuple[tuple[str, ...] | None, ...] = () if plan.models is None else (tuple(plan.models),)
    if entry is not None and entry.scopes is not None:
        scopes &= entry.scopes
    if entry is not None and entry.models is not None:
        models = (*models, entry.models)
    forwards = entry is not None and entry.labels.get(FORWARDS_USER) == "true"
    return Principal(key=key, tenant=tenant, plan=plan_name, scopes=scopes, models=models, forwards_user=forwards)


class AuthenticationError(Exception):
    """The client could not be told who it is; `reason` is one word, the text names cause and fix, never the
    credential."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class KeysWanted(Exception):
    """Raised when a token cannot be verified with the known keys of its issuer: it names a key that is not
    among them, or none are known. Whoever can wait has them fetched (`backends.identity.jwks`) and asks again."""

    def __init__(self, issuer: str) -> None:
        super().__init__(issuer)
        self.issuer = issuer
        """The name that the policy has for it."""
