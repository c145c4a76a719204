"""Health of the process: /livez, /readyz and /health, which are public, and the checks behind them."""
