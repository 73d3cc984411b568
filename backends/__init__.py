"""Upstream side of the gateway: connections, endpoints, pools, engines, workers, stores."""
