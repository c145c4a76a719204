"""A Django project whose one view does nothing, with no middleware: what the framework itself costs."""

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost"], SECRET_KEY="benchmark", MIDDLEWARE=[], DATABASES={}
)
django.setup()


def nothing(request: HttpRequest) -> HttpResponse:
    """Read the body and answer with a constant."""
    request.read()
    return HttpResponse(b"{}", content_type="application/json", headers={"Content-Length": "2"})


urlpatterns = [path("queue/add", nothing)]
application = WSGIHandler()
