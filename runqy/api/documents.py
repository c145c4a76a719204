"""Serves the OpenAPI schema and the page that shows it, from files of our own."""

from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView


class SchemaView(SpectacularJSONAPIView):
    """The OpenAPI schema. Public."""

    authentication_classes = ()
    permission_classes = ()


class SwaggerView(SpectacularSwaggerSplitView):
    """The schema as a page to read and try. Public; its scripts and styles are files, for none may be inline.

    The framework's own script would send a token against forgery, and show it in each curl line: keys need none.
    """

    template_name = "api/swagger.html"
    template_name_js = "api/swagger.js"

    authentication_classes = ()
    permission_classes = ()
    url_name = "schema"
