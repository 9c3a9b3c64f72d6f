"""From a YAML file and a command line to a valid recipe."""

from .recipe import load_recipe


__all__ = ["load_recipe"]
