"""/metrics has vLLM's names, labels and buckets."""

import re

from prometheus_client.parser import text_string_to_metric_families

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.simulator.raw import HI, Client, ask, recorded

STREAM = HI | {"stream": True}


async def page(sim: Simulator) -> str:
    return (await ask(sim.port, None, "/metrics", "GET")).body.decode()


def value(text: str, name: str, **labels: str) -> float:
    """The one sample with this name and these labels."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def series(text: str) -> set[str]:
    """Names with labels, but for the model's name and the buckets that depend on the context's length."""
    return {
        re.sub(r'model_name="[^"]*"', 'model_name=""', line.rpartition(" ")[0])
        for line in text.splitlines()
        if line.startswith("vllm:") and not re.match(r"vllm:request_(prompt|generation)_tokens_bucket", line)
    }


async def test_every_series_is_one_of_vllms() -> None:
    async with Simulator() as sim:
        ours, theirs = series(await page(sim)), series(recorded("metrics_under_load").body.decode())
        assert ours - theirs == set()
        for needed in (
            "num_requests_running",
            "num_requests_waiting",
            "kv_cache_usage_perc",
            "generation_tokens_total",
        ):
            assert f'vllm:{needed}{{engine="0",model_name=""}}' in ours


async def test_counters_count_what_was_answered() -> None:
    async with Simulator(SimulatorSettings(tokens=4, models=('odd"name\\',))) as sim:
        await ask(sim.port, STREAM | {"model": 'odd"name\\'})
        await ask(sim.port, HI | {"model": 'odd"name\\', "max_tokens": 2, "n": 2})
        text = await page(sim)
        assert value(text, "vllm:generation_tokens_total", engine="0", model_name='odd"name\\') == 8
        assert value(text, "vllm:prompt_tokens_total") > 4
        assert value(text, "vllm:request_success_total", finished_reason="stop") == 1
        assert value(text, "vllm:request_success_total", finished_reason="length") == 2
        assert value(text, "vllm:time_to_first_token_seconds_count") == 2
        assert value(text, "vllm:inter_token_latency_seconds_count") == 3
        assert value(text, "vllm:e2e_request_latency_seconds_count") == 2


async def test_gauges_show_slots_queue_and_cache() -> None:
    async with Simulator(SimulatorSettings(first_byte=30, max_num_seqs=1, max_model_len=64)) as sim:
        clients = [await Client.to(sim.port) for _ in range(3)]
        for client in clients:
            client.send(STREAM)
        await sim.until(lambda: sim.running + sim.waiting == 3)
        text = await page(sim)
        assert value(text, "vllm:num_requests_running") == 1
        assert value(text, "vllm:num_requests_waiting") == 2
        assert 0 < value(text, "vllm:kv_cache_usage_perc") <= 1
        assert (await ask(sim.port, None, "/load", "GET")).json == {"server_load": 3}
        for client in clients:
            await client.close()
        await sim.until(lambda: sim.running + sim.waiting == 0)
        text = await page(sim)
        assert value(text, "vllm:num_requests_running") == value(text, "vllm:kv_cache_usage_perc") == 0
        assert value(text, "vllm:request_success_total", finished_reason="abort") == 3
