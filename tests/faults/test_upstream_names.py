"""fault 29, seen by a client: a name that DNS does not know is an endpoint that is not there. What happens to a
name that was known is in `tests/backends/http1/test_resolver.py`."""

from __future__ import annotations

import pytest

from tests.fakes.backend import Backend
from tests.faults.scenes import ask_first_at, pool, route, steps
from tests.flow.harness import gateway_with

# RFC 6761: no resolver knows a name under it.
NOWHERE = "http://no-such-host.invalid"


async def test_a_name_that_dns_does_not_know_is_repeated_elsewhere(backend: Backend) -> None:
    async with gateway_with(NOWHERE, backend, policy=pool(), route=route(connect="1s")) as gw:
        answer, line = await ask_first_at(gw, "pool-0", stream=False)
        assert (answer.status, answer.header("x-sluice-endpoint")) == (200, "pool-1")
        assert steps(line) == [("pool-0", "not_sent"), ("pool-1", "ok")]


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_when_dns_knows_none_of_them_the_answer_is_503(endpoints: int) -> None:
    urls = [f"{NOWHERE}/{number}" for number in range(endpoints)]
    async with gateway_with(*urls, policy=pool(), route=route(connect="1s", retry={"backoff": "1ms"})) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.error["code"]) == (503, "no_endpoint_available")
        assert int(answer.header("retry-after") or 0) >= 1
        assert "no-such-host" not in str(answer.headers) + str(answer.error)


async def test_a_name_is_an_endpoint_like_an_address(backend: Backend) -> None:
    async with gateway_with(f"http://localhost:{backend.port}", policy=pool(), route=route(connect="1s")) as gw:
        assert (await gw.ask(stream=False)).status == 200
    assert backend.attempts == 1
