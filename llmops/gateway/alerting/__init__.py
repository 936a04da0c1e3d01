"""Prometheus rules and a Grafana dashboard for the metrics that the gateway has."""
