"""Serves the OpenAPI schema and the page that shows it, from files of our own."""

from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView


class SchemaView(SpectacularJSONAPIView):
    """The OpenAPI schema. Public."""

    authentication_classes = ()
    permission_classes = ()


class SwaggerView(SpectacularSwaggerSplitView):
    """The schema as a page to read and try. Public; its scripts and styles are files, for none may be inline."""

    template_name = "api/swagger.html"

    authentication_classes = ()
    permission_classes = ()
    url_name = "schema"
