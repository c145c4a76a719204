from django.db import transaction
from django.forms import modelform_factory
from django.shortcuts import redirect, render

from gallery.models import Photo
from gallery.tasks import find_result, resize

UploadForm = modelform_factory(Photo, fields=["original"])


def index(request):
    form = UploadForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        upload(form)
        return redirect("index")
    photos = list(Photo.objects.order_by("-pk")[:20])
    for photo in photos:
        photo.result = None if photo.thumbnail else find_result(photo)
    return render(request, "gallery/index.html", {"form": form, "photos": photos})


@transaction.atomic
def upload(form):
    """Save a photo and enqueue its task, which is sent when the transaction is committed."""
    photo = form.save()
    photo.task_id = resize.enqueue(photo.pk, 200).id
    photo.save(update_fields=["task_id"])
