"""Serves the OpenAPI schema and the page that shows it, from files of our own."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from runqy.api.answers import problem_answer
from runqy.errors import MethodRefused


@method_decorator(csrf_exempt, name="dispatch")
class FrontDoor(View):
    """Leads browsers on from an address that people type. Public."""

    to = ""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Lead on."""
        return HttpResponseRedirect(self.to)

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Refuse what no other path answers."""
        return self.http_method_not_allowed(request, *args, **kwargs)

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Refuse as everywhere else."""
        answer = problem_answer(MethodRefused(f"{request.method} is not for this path."), request)
        answer["Allow"] = "GET, HEAD"
        return answer


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
