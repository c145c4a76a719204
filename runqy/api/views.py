"""The start page, and the Swagger page that shows the OpenAPI schema. Public."""

from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView, TemplateView
from drf_spectacular.views import SpectacularSwaggerSplitView

from runqy.api.exceptions import problem_http_response
from runqy.errors import MethodRefused


@method_decorator(csrf_exempt, name="dispatch")
class IndexRedirectView(RedirectView):
    """Redirect browsers from a short path. Exempt from CSRF checks, since it changes nothing."""

    http_method_names = ("get", "head")

    def http_method_not_allowed(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        return refuse_method(request)


@method_decorator(csrf_exempt, name="dispatch")
class StartPageView(TemplateView):
    """Links to everything that the server offers to people."""

    http_method_names = ("get", "head")
    template_name = "api/start.html"

    def http_method_not_allowed(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        return refuse_method(request)


def refuse_method(request: HttpRequest) -> HttpResponse:
    response = problem_http_response(MethodRefused(f"Method {request.method} not allowed."))
    response["Allow"] = "GET, HEAD"
    return response


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
