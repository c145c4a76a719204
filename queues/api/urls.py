"""Routes of queues and their configuration."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
