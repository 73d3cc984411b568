"""Rate limits: the limiter, its store, the answers of a refused request, and `GET /v1/usage`."""
