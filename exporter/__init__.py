"""The exporter: what sources say becomes metrics, traces and a live page."""
