"""The Django project, and the packages that all apps use: errors, clock, broker, base classes of the API."""
