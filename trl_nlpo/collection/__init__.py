"""Choices collected while a policy trains (Ziegler et al. 2019, section 2)."""
