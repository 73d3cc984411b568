"""Checks across the policy file: references to existing names, unique names, routes that can match.

These checks read the tree, not the settings, so that they find their mistakes also in a file that has others. They say
nothing about a part whose shape is wrong: that is found where types are.
"""

from collections.abc import Iterator
from itertools import chain

from policies.config.kind import ScalarKind
from policies.config.mistakes import Mistake, known, quoted
from policies.config.nodes import Cursor, Mapping, is_off
from policies.config.units import COUNT_ABOVE_0
from policies.globs import is_glob, matches_any

# What stands for `*` and `?` when two globs are compared: an unlikely text of each length that matters.
_STAND_INS = ("", "\x01", "\x01\x01\x01")


def mistakes(file: str, tree: Mapping) -> list[Mistake]:
    """Every name that leads nowhere or is taken twice, and every route that can never match."""
    root = Cursor(tree)
    found = chain(
        _unknown_pools(root),
        _unreached_fallbacks(root),
        _unknown_plans(root),
        _names_taken(root),
        _issuers_taken(root),
        _keys_in_memory(root),
        _unshared_limits(root),
        _dead_routes(root),
    )
    return [Mistake(file, at.node.mark, at.path, message) for at, message in found]


def endpoint_name(pool: str, index: int) -> str:
    """The name of an endpoint that was given none."""
    return f"{pool}-{index}"


def worker_name(pool: str, index: int) -> str:
    """The name of a pool's worker, which is also its endpoint's."""
    return f"{pool}-w{index}"


_Found = Iterator[tuple[Cursor, str]]


def _unknown_pools(root: Cursor) -> _Found:
    pools = [name for name, _ in root.named("pools")]
    for route in root.listed("routes"):
        own = route.get("pool")
        canary, shadow = route.get("canary", "pool"), route.get("shadow", "pool")
        for at in (own, canary, shadow, *(step.get("pool") for step in route.listed("fallback"))):
            if at is not None and at.text is not None and at.text not in pools:
                yield at, f"no pool {quoted(at.text)} {known(pools)}"
        if own is not None and canary is not None and own.text is not None and own.text == canary.text:
            yield canary, f"is the route's own pool {quoted(own.text)}"


def _unreached_fallbacks(root: Cursor) -> _Found:
    """Steps of a fallback that would only do again what has failed, or that come after one that always answers."""
    for route in root.listed("routes"):
        own, cache = route.get("pool"), route.get("cache")
        tried = {} if own is None or own.text is None else {own.text: "the route's own pool"}
        last: str | None = None
        for step in route.listed("fallback"):
            if last is not None:
                yield step, f"can never be reached: {last} always answers"
            pool, message, stale = step.get("pool"), step.get("message"), step.get("cache")
            if stale is not None and not is_off(stale.node) and (cache is None or is_off(cache.node)):
                yield stale, "needs the route's cache: without it no answer is kept"
            if pool is not None and pool.text is not None:
                if pool.text in tried:
                    yield pool, f"is {tried[pool.text]} {quoted(pool.text)}"
                tried.setdefault(pool.text, "an earlier step's pool")
            if message is not None:
                last = step.path


def _unknown_plans(root: Cursor) -> _Found:
    plans = [name for name, _ in root.named("plans")]
    places = [root.get("auth", "anonymous")]
    places += [issuer.get("default", "plan") for issuer in root.listed("auth", "jwt")]
    places += [route.get("match", "plan") for route in root.listed("routes")]
    anonymous = places[0]
    for at in places:
        if at is None or at.text is None or (at is anonymous and is_off(at.node)):
            continue
        if at.text not in plans:
            yield at, f"no plan {quoted(at.text)} {known(plans)}"


def _names_taken(root: Cursor) -> _Found:
    """Endpoints are named in headers, metrics and the API by their name alone, so it is unique in the file."""
    taken: dict[str, str] = {}
    for pool_name, pool in root.named("pools"):
        for index, endpoint in enumerate(pool.listed("endpoints")):
            at = endpoint.get("name") or endpoint
            name = at.text if at is not endpoint else endpoint_name(pool_name, index)
            if name is not None:
                yield from _take(taken, name, at)
        workers = pool.get("workers")
        for index in range(_worker_count(workers)):
            assert workers is not None
            yield from _take(taken, worker_name(pool_name, index), workers)


def _take(taken: dict[str, str], name: str, at: Cursor) -> _Found:
    if name in taken:
        yield at, f"endpoint name {quoted(name)} is taken by {taken[name]}"
    taken.setdefault(name, at.path)


def _worker_count(workers: Cursor | None) -> int:
    """Return the largest number of workers, as far as it can be read; an excessive number is cut."""
    if workers is None or not isinstance(workers.node, Mapping):
        return 0
    count = workers.get("count")
    if count is not None and isinstance(count.node, Mapping):
        count = workers.get("count", "max")
    return min(_read(COUNT_ABOVE_0, count.text), 10_000) if count is not None else 2


def _read(kind: ScalarKind, text: str | None) -> int:
    try:
        return int(kind.read(text or ""))
    except ValueError:
        return 0


def _issuers_taken(root: Cursor) -> _Found:
    """Tokens are told apart by issuer and audience: the second entry for a pair would never be asked."""
    seen: dict[str, str] = {}
    pairs: dict[tuple[str, str], str] = {}
    for issuer in root.listed("auth", "jwt"):
        at = issuer.get("name")
        if at is not None and at.text is not None:
            if at.text in seen:
                yield at, f"name {quoted(at.text)} is taken by {seen[at.text]}"
            seen.setdefault(at.text, at.path)
        by, to = issuer.get("issuer"), issuer.get("audience")
        if by is not None and by.text is not None and to is not None and to.text is not None:
            pair = by.text, to.text
            if pair in pairs:
                yield to, f"issuer and audience are those of {pairs[pair]}: only one could be asked"
            pairs.setdefault(pair, issuer.path)


def _keys_in_memory(root: Cursor) -> _Found:
    """Keys that nobody could write, and that would be gone with the process."""
    at, url = root.get("auth", "api_keys", "store"), root.get("store", "url")
    if at is not None and at.text == "true" and (url is None or url.text == "memory://"):
        yield at, "keys need a store.url of Redis, such as redis://127.0.0.1:6379/0, or {file: keys.yaml}"


def _unshared_limits(root: Cursor) -> _Found:
    """Limits that each process would count by itself. How many replicas there are nobody tells us."""
    processes, url = root.get("server", "processes"), root.get("store", "url")
    if processes is None or processes.text in (None, "1") or (url is not None and url.text != "memory://"):
        return
    limited = next((plan.path for _, plan in root.named("plans") if next(plan.listed("limits"), None)), None)
    if limited is not None:
        yield (
            processes,
            f"{limited}.limits would be counted by each process alone: more than 1 needs a store.url of Redis, "
            "such as redis://127.0.0.1:6379/0",
        )


def _dead_routes(root: Cursor) -> _Found:
    """A name or path that an earlier route without conditions takes whole: the first match wins."""
    models: list[tuple[str, str]] = []
    paths: list[tuple[str, str, frozenset[str]]] = []
    for route in root.listed("routes"):
        match = route.get("match")
        free = match is None or is_off(match.node)
        names = [at for at in (route.get("model"), *route.listed("aliases")) if at is not None and at.text is not None]
        for at in names:
            first = next((where for pattern, where in models if _covers(pattern, at.text or "")), None)
            if first is not None:
                yield at, f"can never match: {first} takes {quoted(at.text or '')} first"
        if free:
            models += [(at.text or "", route.path) for at in names]
        path, methods = route.get("path"), _methods(route)
        if path is None or path.text is None:
            continue
        for pattern, where, earlier in paths:
            if methods <= earlier and _covers(pattern, path.text):
                yield path, f"can never match: {where} takes {quoted(path.text)} first"
                break
        if free:
            paths.append((path.text, route.path, methods))


def _methods(route: Cursor) -> frozenset[str]:
    return frozenset(method.text or "" for method in route.listed("methods")) or frozenset({"POST"})


def _covers(pattern: str, other: str) -> bool:
    """Return whether all names that match `other` match `pattern` too, judged by a few samples."""
    if "[" in other:
        return pattern == other
    if not is_glob(other):
        return matches_any(other, (pattern,))
    return all(matches_any(other.replace("*", sample).replace("?", "\x01"), (pattern,)) for sample in _STAND_INS)
