"""What Prometheus is shown: the pool, its requests, the devices, and every awake engine's own metrics."""
