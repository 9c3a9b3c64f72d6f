"""Tasks: rows of prompts and references, and the reward functions that only make sense for them."""
