"""What stands around the apps: the data plane, middleware, health, metrics, the overview."""
