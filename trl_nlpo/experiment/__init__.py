"""A recipe's life: data, model, stages, results."""
