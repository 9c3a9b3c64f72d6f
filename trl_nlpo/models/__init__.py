"""How policy, value, reference and masking policy live: their forward passes, copies and the absence of dropout."""
