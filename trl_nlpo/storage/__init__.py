"""Files and folders of a run: a crash leaves each complete or absent, and reading errors are one line."""
