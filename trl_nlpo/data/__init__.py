"""From files and the Hub to splits with prompts and references."""
