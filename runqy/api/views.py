"""The OpenAPI schema, and the Swagger page that shows it. Public."""

from functools import cache

from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request

from runqy.api.exceptions import problem_http_response
from runqy.errors import MethodRefused


@method_decorator(csrf_exempt, name="dispatch")
class IndexRedirectView(RedirectView):
    """Redirect browsers from a short path. Exempt from CSRF checks, since it changes nothing."""

    http_method_names = ("get", "head")

    def http_method_not_allowed(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        response = problem_http_response(MethodRefused(f"Method {request.method} not allowed."))
        response["Allow"] = "GET, HEAD"
        return response


class SchemaView(SpectacularJSONAPIView):
    """The OpenAPI schema, generated once in each process because it takes a third of a second. It needs no key."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: object, **kwargs: object) -> HttpResponse:
        return HttpResponse(render_schema(), content_type=OpenApiJsonRenderer2.media_type)


@cache
def render_schema() -> bytes:
    schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    rendered: bytes = OpenApiJsonRenderer2().render(schema)
    return rendered


class SwaggerView(SpectacularSwaggerSplitView):
    """The schema as an interactive page. Scripts and styles are files, since the policy forbids inline ones.

    The package's own script would send a CSRF token and show it in each curl command, and API keys need none.
    """

    template_name = "api/swagger.html"
    template_name_js = "api/swagger.js"

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()
    url_name = "schema"
