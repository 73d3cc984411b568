"""(Path, model, principal) -> route: the first that matches in the policy's order, and the model's name at the engine.

A route's name, its aliases and the globs among them all count alike. What a client may use is decided here too: by
the name it asked for or, where that is an alias, by the model that it stands for. A `path` route names no model, so
scopes alone guard it.

A listed path that names no model (TGI's `/generate`, `/v1/responses/{id}`, `/v2/health/ready`) goes by the first
`path` route that matches it; without one, to the one pool that all models lead to which the principal may use, if it
is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from policies.config.settings import RouteSettings
from policies.globs import is_glob, matches_any
from policies.identity.principal import Principal
from policies.request.paths import MethodRefused, PathKind, family_of, is_plain

MAX_REMEMBERED = 4096
_MAX_NAMED = 5  # models that an error names

Code = Literal["model_not_found", "model_not_allowed", "path_not_found"]


class RouteRefused(Exception):
    """No route for the request, or none that the principal may use: a documented error code, and a text with the
    fix."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """Matched route, with the facts that the request needs."""

    label: str
    """The route's model or path as the policy writes it: bounded, so it may be a metric's label."""
    route: RouteSettings
    upstream_model: str | None = None
    """The model's name at the engine; None where the request names none, or where it goes on as asked."""
    names: tuple[str, ...] = ()
    """Names of the model for plans and keys: the requested name and, for an alias, the name it stands for."""
    counted_as: str = ""
    """Name under which limits per model count the request: the route's name, shared by its aliases; under a glob
    the engine's name. Empty where the request names none."""
    first_looks: tuple[float | None, float | None] = field(init=False, compare=False)
    """Seconds after which an attempt must be looked at first, of a plain answer and of a stream: the least of what may
    run out. Worked out here, once a route and not once a request."""

    def __post_init__(self) -> None:
        times = self.route.timeouts
        object.__setattr__(
            self,
            "first_looks",
            (
                _least(times.first_byte_plain, times.attempt, times.total),
                _least(times.first_byte, times.attempt, times.total),
            ),
        )


def _least(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)


class RouteTable:
    """The policy's routes, made once a table. `find` takes 0.3 us for a name of the policy and for any name seen
    lately."""

    __slots__ = ("_by_path", "_globbed", "_known", "_models", "_remembered")

    def __init__(self, routes: Sequence[RouteSettings]) -> None:
        self._models = tuple(route for route in routes if route.model is not None)
        self._by_path = tuple((number, route) for number, route in enumerate(routes) if route.path is not None)
        # In the policy's order, so `models_for` can list them.
        names = [name for route in self._models for name in _names(route) if not is_glob(name)]
        self._known = {name: found for name in names if (found := _match(name, self._models)) is not None}
        # All that is left to be matched once a name was looked up in vain.
        self._globbed = tuple(route for route in self._models if any(map(is_glob, _names(route))))
        self._remembered: dict[str, RouteMatch] = {}

    def find(self, kind: PathKind, model: str | None, principal: Principal) -> RouteMatch:
        """The route for a described request; `RouteRefused` where there is none or the principal may not use it."""
        if kind.route is not None or model is None:
            return self._without_model(kind, principal)
        routed = self._known.get(model) or self._remembered.get(model) or self._match_and_remember(model)
        if routed is None:
            raise RouteRefused("model_not_found", f'The model "{model}" does not exist.{self._hint(principal)}')
        if principal.models and not principal.may_use(*routed.names):
            raise RouteRefused("model_not_allowed", f'This key may not use "{model}".{self._hint(principal)}')
        return routed

    def by_path(self, raw_path: bytes, method: str) -> PathKind | None:
        """Return the kind of a path outside the table, by the policy's `path` routes; None if no route matches.

        `MethodRefused` if only routes with other methods have it. A path that anybody could read as another never
        matches.
        """
        if not self._by_path or not is_plain(raw_path):
            return None
        path = raw_path.decode("ascii")
        allowed: tuple[str, ...] = ()
        for number, route in self._by_path:
            assert route.path is not None, "sorted out when the routes were read"
            if matches_any(path, (route.path,)):
                kind = PathKind(
                    route.path, "predict", "none", family_of(path), route.methods, raw_path=path, route=number
                )
                if method in route.methods:
                    return kind
                allowed = (*allowed, *(one for one in route.methods if one not in allowed))
        if allowed:
            raise MethodRefused(PathKind("path route", "predict", "none", family_of(path), allowed))
        return None

    def models_for(self, principal: Principal) -> list[str]:
        """The names that the principal may ask for, in the policy's order: routes and aliases, but no globs."""
        return [name for name, routed in self._known.items() if principal.may_use(*routed.names)]

    def counted_as(self, model: str) -> str:
        """Return the name under which limits per model count a requested model; the name itself where no
        route has it."""
        routed = self._known.get(model) or self._match_and_remember(model)
        return model if routed is None else routed.counted_as

    def _match_and_remember(self, model: str) -> RouteMatch | None:
        """By globs. What did not match is not remembered: it costs its asker the search, and nobody else memory."""
        routed = _match(model, self._globbed)
        if routed is not None:
            if len(self._remembered) >= MAX_REMEMBERED:
                # Whoever invents names under a glob costs the others one search each, every 4,096 requests.
                self._remembered.clear()
            self._remembered[model] = routed
        return routed

    def _without_model(self, kind: PathKind, principal: Principal) -> RouteMatch:
        for number, route in self._by_path:
            assert route.path is not None, "sorted out when the routes were read"
            if number == kind.route or (kind.route is None and matches_any(kind.raw_path, (route.path,))):
                return RouteMatch(route.path, route)
        usable = [route for route in self._models if any(principal.may_use(name) for name in _names(route))]
        if len({route.pool for route in usable}) == 1:
            route = usable[0]
            assert route.model is not None, "sorted out when the routes were read"
            return RouteMatch(route.model, route)
        what = "more than one model could be meant" if usable else "there is no model that this key may use"
        raise RouteRefused(
            "model_not_found", f"The request names no model, and {what}. Name one where the path allows it."
        )

    def _hint(self, principal: Principal) -> str:
        """Some of the models that this principal may use, and no others: who may not use one need not know of it."""
        names = self.models_for(principal)
        if not names:
            return ""
        more = " and more, see /v1/models" if len(names) > _MAX_NAMED else ""
        return f" You can use {', '.join(names[:_MAX_NAMED])}{more}."


def _names(route: RouteSettings) -> tuple[str, ...]:
    assert route.model is not None, "only of a route with a model"
    return (route.model, *route.aliases)


def _match(name: str, routes: Iterable[RouteSettings]) -> RouteMatch | None:
    for route in routes:
        assert route.model is not None, "sorted out when the routes were read"
        if matches_any(name, (route.model,)):
            return RouteMatch(route.model, route, route.upstream_model or name, (name,), _counted_as(route, name))
        if matches_any(name, route.aliases):
            stands_for = name if is_glob(route.model) else route.model
            names = (name, stands_for)
            return RouteMatch(route.model, route, route.upstream_model or stands_for, names, _counted_as(route, name))
    return None


def _counted_as(route: RouteSettings, asked: str) -> str:
    assert route.model is not None, "only of a route with a model"
    return (route.upstream_model or asked) if is_glob(route.model) else route.model
