"""gunicorn's command line for the web server: `python -P -m runqy.dataplane.gunicorn_app --bind ...`."""

from gunicorn.app.wsgiapp import WSGIApplication


class WebServer(WSGIApplication):  # type: ignore[misc] # it has no types
    """gunicorn without the working directory on Python's path, where it would come first, before this package."""

    def chdir(self) -> None:
        """Stay in the working directory: relative paths of settings begin there."""


if __name__ == "__main__":
    WebServer("%(prog)s [OPTIONS] [APP_MODULE]").run()
