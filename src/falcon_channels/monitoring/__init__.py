"""Monitoring: metrics of this process and of the cluster for Prometheus."""
