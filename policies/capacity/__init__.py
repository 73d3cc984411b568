"""Capacity of a pool: slots, the order of the waiting requests, and refusal.

admission    slots and the bounded priority queue
tickets      values of admission: waiting request, place, refusal
fair_queue   fair order of the tenants of one priority
pace         expected waits, from the times for which slots are held
adaptive     `max_in_flight: auto`: adaptive concurrency limit
"""
