"""Admission: the bounded queue of each pool, and the gate that every request passes to get a slot."""
