"""A policy on held-out prompts: sampled and scored row by row, then summarized."""
