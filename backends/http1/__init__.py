"""The upstream HTTP/1.1 client: connections, their pool, name resolution, TLS and timers."""
