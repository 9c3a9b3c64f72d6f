"""A run, several, or a grid as one HTML page: curves, results, samples, recipes.

`runs.py` reads folders, `results.py` and `figures.py` say what is shown of them, `samples.py` what can be searched,
and `page.py` writes the page, with `page.css` and `page.js` inside.
"""
