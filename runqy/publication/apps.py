"""Registers the publication with Django."""

from django.apps import AppConfig


class PublicationConfig(AppConfig):
    """The copy of the configuration that stands in Redis."""

    name = "runqy.publication"
    label = "publication"
