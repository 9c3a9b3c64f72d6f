"""Files and folders of a run: written so that a crash leaves them complete or absent, and read with one-line errors."""
