"""Calls the git command safely: which sources it may see, how it authenticates, how it is ended. Knows no Django."""
