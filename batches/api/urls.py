"""Routes of batches."""

from django.urls import path

from batches.api.viewsets import BatchViewSet

urlpatterns = [
    path("batches", BatchViewSet.as_view({"get": "list", "post": "create"}), name="batches"),
    path("batches/<str:batch_id>", BatchViewSet.as_view({"get": "retrieve"}), name="batch"),
    path("batches/<str:batch_id>/events", BatchViewSet.as_view({"get": "events"}), name="batch-events"),
    path("batches/<str:batch_id>/add", BatchViewSet.as_view({"post": "add"}), name="add-to-batch"),
    path("batches/<str:batch_id>/close", BatchViewSet.as_view({"post": "close"}), name="close-batch"),
    path("batches/<str:batch_id>/cancel", BatchViewSet.as_view({"post": "cancel"}), name="cancel-batch"),
]
