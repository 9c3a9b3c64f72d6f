"""From files and the Hub to splits with prompts and references."""

from .files import read_file
from .splits import load_splits


__all__ = ["load_splits", "read_file"]
