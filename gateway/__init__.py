"""What a client meets: HTTP in, the order of policies, HTTP out, and what we tell about it."""

__version__ = "0.1.0"
