"""What leaves the machine: the model, its card, and the line that loads it again."""
