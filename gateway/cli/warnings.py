"""Warnings of `sluice check`: valid settings that keep `sluice serve` from starting on this machine, or that have an
effect which cannot be intended."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from backends.identity.keyfile import KeyFileError, load_keys
from gateway.auth.issuers import IssuerFileError, read_key_files
from policies.config.document import Policy, PolicyError, load
from policies.config.settings import JwtSettings, PlanSettings
from policies.identity.authenticator import records
from policies.limits import rules_of

_MOST = 20  # notes about the keys of one file


def notes_of(path: Path, policy: Policy) -> Iterator[str]:
    """One line each. Reads the files that the policy names; it is written in `path`."""
    yield from _secrets(path)
    yield from _keys(policy)
    for issuer in policy.auth.jwt:
        yield from _issuer(policy, issuer)
    authorities = [endpoint.tls.ca for pool in policy.pools.values() for endpoint in pool.endpoints if endpoint.tls]
    yield from (f"{ca} is not there (tls.ca)" for ca in authorities if ca is not None and not Path(ca).exists())
    for name, plan in policy.plans.items():
        yield from _plan(name, plan)
    if policy.auth.anonymous is not None:
        yield from _strangers(policy.auth.anonymous, policy.plans[policy.auth.anonymous])


def _secrets(path: Path) -> Iterator[str]:
    """The file is good without their values; with them, only these can be wrong."""
    try:
        load(path, secrets=True)
    except PolicyError as error:
        yield from map(str, error.mistakes)


def _keys(policy: Policy) -> Iterator[str]:
    auth, place = policy.auth, policy.auth.api_keys
    if place is None and not auth.jwt and auth.anonymous is None:
        yield "nobody can ask: auth has no api_keys, no jwt and no anonymous plan"
    if place is None or place.file is None:
        return
    file = Path(place.file)
    if not file.exists():
        if auth.anonymous is None:
            yield f"{file} is not there; make it: sluice keys create --file {file} --tenant T --plan P"
        return
    try:
        _, problems = records(load_keys(file), policy.plans)
    except KeyFileError as error:
        yield str(error)
    else:
        yield from (f"{file}: {problem}" for problem in problems[:_MOST])


def _issuer(policy: Policy, issuer: JwtSettings) -> Iterator[str]:
    where, file, url = f"auth.jwt {issuer.name}", issuer.jwks.file, issuer.jwks.url
    if url is not None and url.startswith("http:") and not _is_here(urlsplit(url).hostname or ""):
        yield f"{where}: its keys come over http, and whoever stands between could send others: use https"
    if file is None:
        return
    if not Path(file).exists():
        yield f"{file} is not there ({where}: jwks.file)"
        return
    try:
        found = read_key_files(replace(policy, auth=replace(policy.auth, jwt=(issuer,))))
    except IssuerFileError as error:
        yield f"{error} ({where}: jwks.file)"
    else:
        yield from (f"{file}: {problem} ({where}: jwks.file)" for _, problem in found.problems[:_MOST])


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plan(name: str, plan: PlanSettings) -> Iterator[str]:
    """Limits that a request which keeps the plan's bounds could never keep."""
    for rule in rules_of(name, plan.limits, "local"):
        bounds = {"max_output_tokens": plan.max_output_tokens} if rule.kind in ("tokens", "output_tokens") else {}
        if rule.kind == "tokens":
            bounds["max_input_tokens"] = plan.max_input_tokens
        for key, most in bounds.items():
            if most is not None and most > rule.burst > 0:
                limit = f"limits[{rule.name.rpartition('.')[2]}] lets {rule.burst} through at once"
                yield f"plans.{name}.{key} is {most}, and {limit}: more is always refused"


def _strangers(name: str, plan: PlanSettings) -> Iterator[str]:
    """Limits that all who ask without a credential would share."""
    for number, limit in enumerate(plan.limits):
        if limit.per in ("key", "tenant", "user"):
            yield (
                f"plans.{name}.limits[{number}] is per {limit.per}, and all anonymous clients are one: "
                "per: ip counts each address"
            )
