"""Tables of settings, from the declarations of the server and of the worker."""

from collections.abc import Iterable

from runqy.core.environment.variables import Environment, Setting
from runqy.core.formats import durations
from runqy.core.formats.durations import WINDOWS_S, Rate
from tools.documentation import setting_reasons
from tools.documentation.django_setup import set_up_django
from tools.documentation.tables import cell, table
from workers.runtime import settings as worker

set_up_django()

from runqy import settings as server  # noqa: E402

_UNITS = {window_s: unit for unit, window_s in WINDOWS_S.items()}
_REQUIRED = {"RUNQY_SERVER_URL": "https://runqy.example.com", "RUNQY_API_KEY": "key", "RUNQY_QUEUES": "*"}


def server_tables() -> dict[str, str]:
    """Return a table for each section."""
    sections = dict.fromkeys(setting.section for setting in server.env.settings.values())
    return {
        section: _server_table(s for s in server.env.settings.values() if s.section == section) for section in sections
    }


def worker_table() -> str:
    names = {variable: name for name, variable in worker.VARIABLES.items()}
    rows = [
        (
            f"`{names[name]}`" if name in names else "",
            f"`{name}`",
            _default(setting),
            cell(setting.help),
            setting_reasons.WORKER[name],
        )
        for name, setting in worker_settings().items()
    ]
    return table(("in the file", "variable", "default", "meaning", "change it because"), rows)


def worker_settings() -> dict[str, Setting]:
    environment = Environment(_REQUIRED)
    worker.read(environment)
    return environment.settings


def _server_table(settings: Iterable[Setting]) -> str:
    rows = [
        (f"`{setting.name}`", _default(setting), cell(setting.help), setting_reasons.SERVER[setting.name])
        for setting in settings
    ]
    return table(("variable", "default", "meaning", "change it because"), rows)


def _default(setting: Setting) -> str:
    """Return the default as it would be written in the environment; a dash if there is none."""
    if setting.shown_default:
        return setting.shown_default
    match setting.kind, setting.default:
        case "flag", value:
            text = str(value).lower()
        case "rate", None:
            text = "off"
        case "seconds", int() | float() as seconds:
            text = durations.format_short(int(seconds))
        case "size", int() as size:
            text = f"{size >> 30}GiB" if size % (1 << 30) == 0 else f"{size >> 20}MiB"
        case _, Rate() as rate:
            text = f"{rate.limit}/{_UNITS[rate.window_s]}"
        case _, tuple() as words if words:
            text = ",".join(map(str, words))
        case _, str() | int() | float() as value if value != "":
            text = str(value)
        case _:
            return "–"  # noqa: RUF001
    return f"`{text}`"
