"""gunicorn's command line for the web server: `python -P -m runqy.server.dataplane.gunicorn_app --bind ...`."""

from gunicorn.app.wsgiapp import WSGIApplication


class WebServer(WSGIApplication):  # type: ignore[misc] # it has no types
    """gunicorn that leaves Python's path alone. It would put the working directory first, before this package."""

    def chdir(self) -> None:
        """Stay in the working directory: relative paths of settings begin there."""


if __name__ == "__main__":
    WebServer("%(prog)s [OPTIONS] [APP_MODULE]").run()
