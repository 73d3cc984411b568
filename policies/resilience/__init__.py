"""Consequences of outcomes: retries, breakers, ejection, pauses, health, hedges and fallbacks."""
