"""Task and naturalness metrics: a number for each text, and numbers for all of them together."""

from .registry import get_metric, load, metric_names


__all__ = ["get_metric", "load", "metric_names"]
