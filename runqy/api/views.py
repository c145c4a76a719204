"""The view that all others of the API are."""

from typing import ClassVar

from rest_framework.views import APIView

from runqy.accounts.identity import Role


class KeyedView(APIView):
    """A view for holders of an API key."""

    roles: ClassVar[frozenset[Role]] = frozenset()
    """Who may ask besides administrators."""
