"""Parts of the compare nodes: sampling two models alike, what ran natively, results as data, text and picture."""
