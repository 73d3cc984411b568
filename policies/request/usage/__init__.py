"""Tokens: how many a request may take, how many it took, and how the engine is made to say so."""
