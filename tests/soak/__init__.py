"""A long run under faults: `make soak`."""
