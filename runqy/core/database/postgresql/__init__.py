"""Django's PostgreSQL backend, bounded in time."""
