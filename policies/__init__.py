"""Policies: pure decisions (values in, verdict out), and the policy file with its examples.

balancing    strategies that choose an endpoint
caching      response cache: keys, lifetimes, cacheable requests
capacity     slots of a pool, its queue, adaptive concurrency
codec        JSON to typed values and back (the only user of msgspec)
config       the policy file: loading, settings, schema
globs        names with wildcards
identity     credentials and principals
limits       rate limits of plans
request      reading of requests: path, body, model, route, tokens
resilience   outcomes, retries, breakers, ejection, health, hedges, fallbacks
examples     policy files that the tests load
"""
