"""The ASGI application of the web processes: protects the server, serves the hot routes, passes the rest to Django."""
