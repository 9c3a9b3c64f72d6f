"""From a YAML file and a command line to a valid recipe."""
