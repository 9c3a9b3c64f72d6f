"""One process or several: what differs between DDP, FSDP2 and DeepSpeed ZeRO, and nothing else."""
