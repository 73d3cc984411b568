"""What we call and look after: connections, endpoints, pools, engines, workers."""
