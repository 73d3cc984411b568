"""Fallbacks: the chain of pools, cached answers and messages that a route uses when its own pool cannot answer."""
