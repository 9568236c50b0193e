"""Monitoring: the metrics of every process and their exposition; Prometheus' rules and a Grafana dashboard."""

# Names the folder of processes that share one port. Each process must have it before it imports prometheus_client.
SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
