"""From a YAML file and a command line to a recipe that is known to be valid."""
