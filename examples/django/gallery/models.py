from django.db import models


class Photo(models.Model):
    original = models.FileField(upload_to="originals")
    thumbnail = models.FileField(upload_to="thumbnails", blank=True)
    task_id = models.CharField(max_length=64, blank=True)
