"""The corridor of one update: prompts, rollout, scores, estimates, update; rooms that never import one another."""
