"""The ASGI application of web processes: limits requests, serves the hot routes, passes the rest to Django."""
