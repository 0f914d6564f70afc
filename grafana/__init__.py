"""Dashboards for Grafana, and what provisions them; see docs/grafana.md."""
