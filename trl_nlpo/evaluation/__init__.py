"""A policy judged on held-out prompts."""
