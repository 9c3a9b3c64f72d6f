"""Many recipes, seeds and algorithms, and the table that comes out."""
