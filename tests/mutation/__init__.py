"""Mutation testing of the riskiest policies: `python -m tests.mutation [--count N] [MODULE ...]` (see README.md)."""
