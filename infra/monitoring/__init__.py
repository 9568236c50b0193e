"""Monitoring: the metrics of every process and their exposition; Prometheus' rules and a Grafana dashboard."""
