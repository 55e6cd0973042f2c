"""Copies of logs and metrics in MLflow; the local files are authoritative."""
