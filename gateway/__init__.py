"""Client side of the gateway: HTTP, the pipeline of a request, the control plane, observability."""

__version__ = "0.1.0"
