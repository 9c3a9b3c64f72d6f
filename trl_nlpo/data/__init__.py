"""From files and the Hub to splits with prompts and references."""

from .files import read_file as read_file
