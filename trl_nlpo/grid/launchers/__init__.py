"""A grid's cells as jobs, each in a process of its own: on this machine, under Slurm, or on Ray."""
