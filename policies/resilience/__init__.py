"""Consequences of outcomes: retries, breakers, ejection, pauses, health, hedges and fallbacks.

outcome        outcome of an attempt, as data
retry          verdict after a failed attempt: retry, wait, or give up
retry_after    value of a `Retry-After` header, in seconds
retry_budget   bound of the retries of a pool
breaker        circuit breaker of one endpoint and model
ejection       outlier detection: an endpoint that fails more than the others is left out
pause          pause of a saturated endpoint
health         state of an endpoint by its probes
slow_start     growing share of an endpoint that came back
hedging        second attempt beside a slow one
deadline       the client's deadline
fallback       chain of other pools and answers
"""
