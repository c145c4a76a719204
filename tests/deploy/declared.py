"""The names of the settings that the server and the worker declare."""

from runqy import settings
from runqy.core.environment.variables import Environment
from workers.runtime import settings as worker

_environment = Environment(
    {"RUNQY_SERVER_URL": "https://runqy.example.com", "RUNQY_API_KEY": "key", "RUNQY_QUEUES": "*"}
)
worker.read(_environment)

WORKER_SETTINGS = set(_environment.settings)
SERVER_SETTINGS = set(settings.env.settings)
