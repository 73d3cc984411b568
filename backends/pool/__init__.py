"""Pools of endpoints: the choice of an endpoint, its health, its breakers and its share of the traffic."""
