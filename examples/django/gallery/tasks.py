import io

from django.core.files.base import ContentFile
from PIL import Image, ImageOps

from gallery.models import Photo
from runqy_sdk.client import ClientError

try:
    from django.tasks import task
    from django.tasks.exceptions import TaskResultDoesNotExist
except ImportError:  # Django 5.2
    from django_tasks import task
    from django_tasks.exceptions import TaskResultDoesNotExist


@task(queue_name="photos")
def resize(photo_id, size):
    """Make the thumbnail of a photo. It may run twice: the file of the first run is replaced."""
    photo = Photo.objects.get(pk=photo_id)
    with Image.open(photo.original) as image:
        thumbnail = ImageOps.exif_transpose(image).convert("RGB")
    thumbnail.thumbnail((size, size))
    out = io.BytesIO()
    thumbnail.save(out, "JPEG")
    photo.thumbnail.delete(save=False)
    photo.thumbnail.save(f"{photo.pk}.jpg", ContentFile(out.getvalue()), save=False)
    photo.save(update_fields=["thumbnail"])
    return {"width": thumbnail.width, "height": thumbnail.height}


def find_result(photo):
    """Return what became of the task of a photo; None if the server does not know it, or cannot be asked."""
    try:
        return resize.get_result(photo.task_id)
    except (TaskResultDoesNotExist, ClientError):
        return None
