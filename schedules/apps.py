"""The Django app of schedules."""

from django.apps import AppConfig


class SchedulesConfig(AppConfig):
    """Tasks that are enqueued by the clock."""

    name = "schedules"

    def ready(self) -> None:
        from queues.file_sections import register_section  # noqa: PLC0415 (apps are loaded)
        from schedules.files import ScheduleSection  # noqa: PLC0415

        register_section(ScheduleSection())
