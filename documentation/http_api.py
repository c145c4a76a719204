"""The reference of the HTTP API, from its OpenAPI schema."""

from typing import Any

from documentation.django_setup import set_up_django

set_up_django()

from drf_spectacular.generators import SchemaGenerator  # noqa: E402
from drf_spectacular.renderers import OpenApiYamlRenderer  # noqa: E402


def schema() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


def schema_as_yaml() -> str:
    return OpenApiYamlRenderer().render(schema()).decode()
