"""What a person sees while a trainer runs: a panel on a terminal, and plain lines everywhere else."""
