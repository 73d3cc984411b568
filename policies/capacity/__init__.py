"""Capacity of a pool: who gets a slot, who waits for one in which order, and who is refused."""
