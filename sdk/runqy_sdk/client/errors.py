"""What clients raise. There is a class for each code of the server's errors, in `runqy_sdk.client.api_errors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

if TYPE_CHECKING:
    from runqy_sdk.client.models import Task


class ClientError(Exception):
    """The base class of what clients raise."""


class ConfigurationError(ClientError):
    """There is no server or no API key, or a value of the client is invalid."""


class ServerUnreachable(ClientError):
    """The server did not answer. A request with an id may be repeated: it doubles no task."""


class ApiError(ClientError):
    """The server refused a request."""

    code: ClassVar[str] = ""
    is_temporary: ClassVar[bool] = False
    """The same request may succeed later."""
    _classes: ClassVar[dict[str, type[ApiError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        ApiError._classes[cls.code] = cls

    def __init__(
        self,
        detail: str,
        *,
        errors: tuple[str, ...] = (),
        status: int = 0,
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(detail)
        self.errors = errors
        """Single messages, each about one member of the request."""
        self.status = status
        """The HTTP status; 0 for an item of a batch."""
        self.received_code = code
        """The code that the server sent, which may be newer than this package."""
        self.request_id = request_id
        self.retry_after: float | None = None
        """The seconds that the server asks to wait; None if it does not say."""


class TaskFailed(ClientError):
    """The task whose result was asked for has failed."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.error or "the task was archived")
        self.task = task

    def __reduce__(self) -> tuple[Any, ...]:  # pickle calls the class with what it is made from, not with its text
        return type(self), (self.task,), self.__dict__


class TaskDeleted(ClientError):
    """The task was deleted while its events were read."""


class StreamRestarted(ClientError):
    """The task began again: what it streamed before is void."""


class WaitTimeout(ClientError, TimeoutError):
    """The task has not ended in time. It continues."""

    def __init__(self, task_id: str, seconds: float) -> None:
        super().__init__(f"the task {task_id} has not ended within {seconds:g} s")
        self.task_id = task_id
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id, self.seconds), self.__dict__


def make_error(code: str, detail: str, *, status: int = 0, **attributes: Any) -> ApiError:
    """Return an error of the class for a code; for one that this package does not know, of the class for a status."""
    classes = ApiError._classes  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] (its registry)
    kind = classes.get(code) or _HTTP_ERRORS.get(status, ApiError)
    return kind(detail, code=code, status=status, **attributes)


def read_error(status: int, headers: Mapping[str, str], body: Any, text: str = "") -> ApiError:
    """Return the error of a response: `body` is its problem document (RFC 9457), or None for a `text`."""
    if isinstance(body, dict):
        problem = cast("dict[str, Any]", body)
        errors = tuple(str(error) for error in problem.get("errors") or ())
        error = make_error(
            str(problem.get("code", "")),
            str(problem.get("detail") or "; ".join(errors) or f"HTTP {status}"),
            errors=errors,
            status=status,
            request_id=str(problem.get("request_id") or ""),
        )
    else:
        error = make_error("", f"HTTP {status}: {text.strip()}" if text.strip() else f"HTTP {status}", status=status)
    if (seconds := headers.get("retry-after", "")).isdecimal():
        error.retry_after = float(seconds)
    return error


class GatewayError(ApiError):
    """A proxy before the server answered with 429, 502, 503 or 504."""

    code = "gateway"
    is_temporary = True


_HTTP_ERRORS: dict[int, type[ApiError]] = dict.fromkeys((429, 502, 503, 504), GatewayError)
