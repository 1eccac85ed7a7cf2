"""Parts of `budgets.py`: the table."""
