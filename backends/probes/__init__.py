"""Active health checks: the prober, the probes of one endpoint, and the request that a probe sends."""
