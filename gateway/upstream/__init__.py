"""The upstream side of a request: attempts, hedging, dispatch to an endpoint, relay of its answer, and the timeouts."""
