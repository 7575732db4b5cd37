"""How many runs are made: what a sweep consists of and will train, what makes its runs, a search over settings."""
