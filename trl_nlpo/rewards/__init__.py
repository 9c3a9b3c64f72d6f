"""Reward functions with TRL's signature, and how a recipe names them."""

from .registry import built_in_names, get_reward


__all__ = ["built_in_names", "get_reward"]
