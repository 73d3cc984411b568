"""An OpenAI-compatible engine without a model: the stand-in for a vLLM worker in the quickstart, the tests and the
benchmarks.

It answers what vLLM answers, in vLLM's bytes, at the pace of a GPU and with faults on demand; what it says is made
from the prompt alone, so two answers to one question are the same. It never hides what it is: `owned_by` in
/v1/models, `system_fingerprint` in every answer, `server` in every head and /version say "simulator".

    settings.py    what can be set, and how durations are written; arguments.py: the same as flags
    wire.py        HTTP/1.1 by hand on sockets: exact bytes, resets, half-sent answers; exchange.py: one request and
    its answer
    ticker.py      one timer for all streams
    engine.py      the pretended GPU: slots, a queue, time; jobs.py: what runs on it; gauges.py: /metrics
    words.py       tokens and texts, made from the prompt; logprobs.py: their probabilities
    fields.py call.py    what a request asks for; refusals.py: what vLLM says when it does not like it
    generation.py  the answer, before it has a dialect; desk.py: names, ids, and the work that an answer is
    chat.py completions.py messages.py responses.py pooling.py    one dialect a file
    faults.py      what can be made to go wrong; faultspec.py: how that is written; tamper.py: how it goes wrong on the
    wire
    routes.py      path -> answer; admin.py: /simulator/...
    server.py      Simulator (in a test: `async with Simulator(Settings(tokens=8)) as sim`) and serve()
    __main__.py    python -m backends.simulator --port 8001
"""
