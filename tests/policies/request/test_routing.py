"""Which route answers: the first that matches, for those who may, and what is told to those who may not."""

from __future__ import annotations

import pytest

from policies.config.settings import RouteSettings
from policies.identity.principal import Principal
from policies.request.paths import MethodRefused, PathKind, classify
from policies.request.routing import MAX_REMEMBERED, RouteRefused, RouteTable

ANYONE = Principal("k", "t", "p")
CHAT = classify(b"/v1/chat/completions", "POST") or pytest.fail()
GENERATE = classify(b"/generate", "POST") or pytest.fail()


def model(name: str, *aliases: str, pool: str = "a", upstream: str | None = None) -> RouteSettings:
    return RouteSettings(model=name, aliases=aliases, pool=pool, upstream_model=upstream)


def only(*globs: str) -> Principal:
    return Principal("k", "t", "p", models=(globs,))


def refusal(routes: RouteTable, kind: PathKind, name: str | None, principal: Principal = ANYONE) -> RouteRefused:
    with pytest.raises(RouteRefused) as caught:
        routes.find(kind, name, principal)
    return caught.value


def test_the_first_match_wins_over_names_globs_and_aliases() -> None:
    routes = RouteTable(
        [model("qwen2-7b"), model("qwen2-*", pool="b"), model("x", "qwen2-72b", pool="c"), model("*", pool="d")]
    )
    found = {
        name: routes.find(CHAT, name, ANYONE).route.pool for name in ("qwen2-7b", "qwen2-0.5b", "qwen2-72b", "x", "y")
    }
    assert found == {"qwen2-7b": "a", "qwen2-0.5b": "b", "qwen2-72b": "b", "x": "c", "y": "d"}


def test_a_glob_before_a_name_hides_it() -> None:
    assert RouteTable([model("*", pool="a"), model("x", pool="b")]).find(CHAT, "x", ANYONE).route.pool == "a"


@pytest.mark.parametrize(
    ("route", "asked", "counted_as"),
    [
        (model("m", upstream="M"), "m", "m"),
        (model("m", "gpt-4o", upstream="M"), "gpt-4o", "m"),
        (model("m", "gpt-*"), "gpt-5", "m"),
        (model("m-*"), "m-1", "m-1"),
        (model("m-*", upstream="M"), "m-1", "M"),
        (model("m-*", "gpt-4o"), "gpt-4o", "gpt-4o"),
    ],
)
def test_a_model_is_counted_under_one_name_whatever_it_is_asked_for_by(
    route: RouteSettings, asked: str, counted_as: str
) -> None:
    """Else a limit per model would hold once for each alias, and for each name that a glob takes."""
    routes = RouteTable([route])
    assert routes.find(CHAT, asked, ANYONE).counted_as == routes.counted_as(asked) == counted_as
    assert routes.counted_as("nobody has it") == "nobody has it"


@pytest.mark.parametrize(
    ("route", "asked", "upstream"),
    [
        (model("m"), "m", "m"),
        (model("m", "gpt-4o"), "gpt-4o", "m"),
        (model("m", upstream="M"), "m", "M"),
        (model("m", "gpt-4o", upstream="M"), "gpt-4o", "M"),
        (model("m-*"), "m-1", "m-1"),
        (model("m-*", "gpt-4o"), "gpt-4o", "gpt-4o"),
        (model("m", "gpt-*"), "gpt-5", "m"),
    ],
)
def test_the_engine_is_asked_for_its_own_name_of_the_model(route: RouteSettings, asked: str, upstream: str) -> None:
    routed = RouteTable([route]).find(CHAT, asked, ANYONE)
    assert (routed.upstream_model, routed.label) == (upstream, route.model)


def test_an_unknown_model_is_404_and_names_only_what_the_principal_may_use() -> None:
    routes = RouteTable([model("a"), model("secret"), model("b", "c"), model("g-*")])
    error = refusal(routes, CHAT, "nope", only("a", "b"))
    assert error.code == "model_not_found"
    assert str(error) == 'The model "nope" does not exist. You can use a, b, c.'
    assert "You can use" not in str(refusal(routes, CHAT, "nope", only("z")))


def test_a_long_list_of_models_is_cut() -> None:
    error = refusal(RouteTable([model(f"m{i}") for i in range(9)]), CHAT, "nope")
    assert "m0, m1, m2, m3, m4 and more" in str(error)


def test_a_model_that_the_principal_may_not_use_is_403() -> None:
    error = refusal(RouteTable([model("a"), model("b")]), CHAT, "b", only("a"))
    assert (error.code, str(error)) == ("model_not_allowed", 'This key may not use "b". You can use a.')


def test_an_alias_is_allowed_by_its_own_name_or_by_the_model_it_stands_for() -> None:
    routes = RouteTable([model("qwen2-7b", "gpt-4o")])
    for globs in ("qwen2-*", "gpt-4o"):
        assert routes.find(CHAT, "gpt-4o", only(globs)).upstream_model == "qwen2-7b"
    assert refusal(routes, CHAT, "qwen2-7b", only("gpt-4o")).code == "model_not_allowed"
    assert refusal(routes, CHAT, "gpt-4o", only("llama")).code == "model_not_allowed"


def test_models_are_listed_with_aliases_and_without_globs_and_only_those_allowed() -> None:
    routes = RouteTable(
        [model("b", "x"), model("g-*", "y"), RouteSettings(path="/p/*", pool="a"), model("a"), model("b", pool="c")]
    )
    assert routes.models_for(ANYONE) == ["b", "x", "y", "a"]
    assert routes.models_for(only("b", "y")) == ["b", "x", "y"]
    assert routes.models_for(only()) == []


def test_hostile_names_can_not_grow_the_memory() -> None:
    routes = RouteTable([model("m-*"), model("x")])
    for i in range(3 * MAX_REMEMBERED):
        assert routes.find(CHAT, f"m-{i}", ANYONE).label == "m-*"
    for i in range(10):
        refusal(routes, CHAT, f"unknown-{i}")
    assert len(routes._remembered) <= MAX_REMEMBERED
    assert not any(name.startswith("unknown") for name in routes._remembered)


# -- paths ---------------------------------------------------------------------------------------------------------

PREDICT = RouteSettings(path="/predict/*", pool="p")
READ = RouteSettings(path="/predict/meta", methods=("GET",), pool="q")


def test_a_path_route_serves_what_its_glob_matches_by_its_methods() -> None:
    routes = RouteTable([model("m"), PREDICT, READ])
    kind = routes.by_path(b"/predict/x/y", "POST")
    assert kind is not None
    assert (kind.path, kind.scope, kind.model_in, kind.family) == ("/predict/*", "predict", "none", "openai")
    routed = routes.find(kind, None, ANYONE)
    assert (routed.label, routed.route, routed.upstream_model) == ("/predict/*", PREDICT, None)
    read = routes.by_path(b"/predict/meta", "GET")
    assert read is not None and routes.find(read, None, ANYONE).route is READ


def test_a_path_route_refuses_other_methods_with_those_allowed() -> None:
    with pytest.raises(MethodRefused) as caught:
        RouteTable([PREDICT, READ]).by_path(b"/predict/meta", "DELETE")
    assert caught.value.allow == "POST, GET"


@pytest.mark.parametrize(
    "path", [b"/other", b"/predict", b"/predict/../admin", b"/predict//x", b"/predict/%2e%2e/x", b"/predict/\xff"]
)
def test_a_path_that_does_not_match_plainly_is_served_by_none(path: bytes) -> None:
    assert RouteTable([PREDICT]).by_path(path, "POST") is None
    assert RouteTable([model("m")]).by_path(b"/predict/x", "POST") is None


def test_a_request_without_a_model_goes_to_the_only_pool() -> None:
    routed = RouteTable([model("m", upstream="M"), model("n")]).find(GENERATE, None, ANYONE)
    assert (routed.label, routed.route.pool, routed.upstream_model) == ("m", "a", None)


def test_a_request_without_a_model_goes_by_a_path_route_first() -> None:
    routes = RouteTable([model("m"), model("n", pool="b"), RouteSettings(path="/generate*", pool="tgi")])
    assert routes.find(GENERATE, None, ANYONE).route.pool == "tgi"
    assert routes.find(GENERATE, "n", ANYONE).route.pool == "b"


def test_a_request_without_a_model_is_refused_where_two_pools_could_be_meant() -> None:
    routes = RouteTable([model("m"), model("n", pool="b")])
    assert refusal(routes, GENERATE, None).code == "model_not_found"
    assert routes.find(GENERATE, None, only("n")).route.pool == "b"


def test_a_request_without_a_model_gives_no_way_round_a_keys_models() -> None:
    routes = RouteTable([model("m-*"), model("n")])
    assert refusal(routes, GENERATE, None, only("z")).code == "model_not_found"
    assert refusal(RouteTable([model("m-*")]), GENERATE, None, only("m-1")).code == "model_not_found"


def test_no_routes_know_no_model() -> None:
    assert refusal(RouteTable([]), CHAT, "m").code == "model_not_found"
    assert refusal(RouteTable([]), GENERATE, None).code == "model_not_found"
