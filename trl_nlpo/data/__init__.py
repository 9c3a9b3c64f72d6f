"""From files and the Hub to splits with prompts and references."""

from .splits import load_splits


__all__ = ["load_splits"]
