"""What follows from an outcome: retries, breakers, ejection, pauses, health, hedges and fallbacks."""
