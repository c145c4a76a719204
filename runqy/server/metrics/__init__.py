"""GET /metrics: the numbers of this server, its queues and its workers, for Prometheus."""
