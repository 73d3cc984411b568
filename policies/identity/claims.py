"""Rights of a verified token: its claims and the issuer's settings -> Principal (policy key
`auth.jwt[].claims`).

A claim that the policy names and the token lacks, or has in another type, is an error unless `default` gives it. Models
and scopes only narrow the plan's. Whom a token proves is named after its issuer, `<issuer>/<sub>`, and so is its
tenant, `<issuer>/<claim>` (unless `shared_tenants`): no key and no other issuer can come to the same name, which has no
slash before its issuer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from policies.config.settings import JwtSettings
from policies.identity.jwt_form import ParsedToken, quoted, refused
from policies.identity.principal import SCOPES, AuthenticationError, PlanRights, Principal, principal_for

_LONGEST = 256  # characters of a tenant, a subject or a model
_OF_NO_TENANT = "default"
T = TypeVar("T")


def principal_of(token: ParsedToken, settings: JwtSettings, plans: Mapping[str, PlanRights]) -> Principal:
    """Return the principal of a verified token. Raises AuthenticationError: `claim_missing`, or `token_invalid` for a
    bad `sub`."""
    named, default = settings.claims, settings.default
    plan_name = _value(token, "plan", named.plan, default.plan, _name)
    tenant = _value(token, "tenant", named.tenant, default.tenant, _name)
    scopes = _value(token, "scopes", named.scopes, _words(default.scopes), _words)
    models = _value(token, "models", named.models, default.models, _words)
    plan = plans.get(plan_name or "")
    if plan is None:
        raise _missing("plan", named.plan, "names no plan of this gateway")
    who = f"{settings.name}/{_subject(token) or ''}"
    principal = principal_for(plan, plan_name=plan_name or "", key=who, tenant=_tenant(settings, tenant))
    return replace(
        principal,
        user=who,
        scopes=principal.scopes if scopes is None else principal.scopes & SCOPES.intersection(scopes),
        models=principal.models if models is None else (*principal.models, models),
    )


def _tenant(settings: JwtSettings, tenant: str | None) -> str:
    if settings.shared_tenants:
        return tenant or settings.name
    return f"{settings.name}/{tenant or _OF_NO_TENANT}"


def _subject(token: ParsedToken) -> str | None:
    subject = token.claim("sub")
    if subject is None and "sub" not in token.claims:
        return None
    found = _name(subject)
    if found is None:
        raise refused('its "sub" is not a text of up to 256 printable characters')
    return found


def _value(
    token: ParsedToken, what: str, claim: str | None, default: T | None, read: Callable[[Any], T | None]
) -> T | None:
    """Return the value of a claim; the default if no claim is configured or the token has no usable one."""
    if claim is None:
        return default
    found = read(token.claim(claim))
    if found is None and default is None:
        raise _missing(what, claim, "is missing or of the wrong type")
    return default if found is None else found


def _missing(what: str, claim: str | None, why: str) -> AuthenticationError:
    said = f"claim {quoted(claim)}" if claim is not None else "default"
    return AuthenticationError("claim_missing", f"The token's {said}, which says its {what}, {why}.")


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() else None


def _words(value: Any) -> tuple[str, ...] | None:
    """A list of texts, or one text with spaces between its words as OAuth's `scope` (RFC 8693, 4.2)."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(
        isinstance(word, str) and len(word) <= _LONGEST for word in words
    ):
        return None
    return tuple(words)
