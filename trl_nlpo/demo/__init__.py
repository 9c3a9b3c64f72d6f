"""A page that shows what a run changed: completions of one prompt by the model before and after."""
