"""Reward models trained from labels."""
