"""Answers that are given again: in this process's memory, or in a Redis that all processes share."""
