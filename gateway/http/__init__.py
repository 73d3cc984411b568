"""The client side of HTTP/1.1: connections, parsing, timers, framing, and the routing of a request to the pipeline
or to the control routes."""
