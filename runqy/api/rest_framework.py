"""Settings of DRF and drf-spectacular, and the headers of requests and responses. Imported by settings.py."""

from importlib.metadata import version

from runqy.broker.states import RunOutcome, TaskState
from runqy.core.api_keys import Role

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["runqy.accounts.authentication.BearerTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "runqy.api.permissions.HasRole",
        "runqy.configuration.permissions.HasConfirmedConfiguration",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["runqy.api.throttling.ApiKeyThrottle"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "runqy.api.renderers.JSONOnlyNegotiation",
    "DEFAULT_RENDERER_CLASSES": ["runqy.api.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["runqy.api.parsers.JSONParser"],
    "DATETIME_FORMAT": "%Y-%m-%dT%H:%M:%SZ",
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "runqy.api.schema.Schema",
    "EXCEPTION_HANDLER": "runqy.api.exceptions.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "COMPONENT_SPLIT_PATCH": False,  # the body of a PATCH has required members, too
    "TITLE": "runqy",
    "DESCRIPTION": "Enqueue tasks, read their results, manage queues, vaults and workers.",
    "VERSION": version("runqy"),
    "OAS_VERSION": "3.1.0",
    "SERVE_PUBLIC": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    # Others are called by their component and member, such as `FireState`.
    "ENUM_SUFFIX": "",
    "ENUM_NAME_OVERRIDES": {
        "AlertLevel": ["warning", "critical"],
        "ApiKeyRole": [role.value for role in Role],
        "BatchCondition": ["ended", "succeeded", "failed"],
        "BulkActionKind": ["run", "archive", "delete", "release"],
        "BulkRequestAction": ["run", "cancel", "archive", "delete"],
        "CheckStatus": ["ok", "warning", "failed"],
        "DemandReason": ["no_worker", "workers_failed", "paused", "none"],
        "EndpointEvent": ["task.completed", "task.archived", "batch.ended", "alert.opened", "alert.resolved"],
        "EndpointKind": ["webhook", "slack", "email"],
        "EndpointKept": ["send", "drop"],
        "EntryUsage": ["environment", "git_token", "both"],
        "EntryVersionEvent": "vaults.models.Event",
        "QueueMode": ["long_running", "one_shot"],
        "QueueOrder": ["weighted", "strict"],
        "RedisMode": ["single", "sentinel", "cluster"],
        "ReleaseMode": ["manual", "push"],
        "RunOutcome": [outcome.value for outcome in RunOutcome],
        "ScheduleCatchUp": ["last", "skip"],
        "ScheduleOverlap": ["skip", "allow"],
        "TaskEvent": ["task.completed", "task.archived"],
        "TaskState": [state.value for state in TaskState],
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "runqy.api.schema.share_enumerations",
        "runqy.api.schema.add_servers",
        "runqy.api.schema.describe_headers",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "/static/admin_site/favicon.svg",
}

# Of pages in browsers, by CORS
REQUEST_HEADERS = (
    *("accept", "authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "last-event-id"),
    *("prefer", "traceparent", "x-api-key", "x-request-id"),
)
RESPONSE_HEADERS = (
    *("ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "WWW-Authenticate", "X-Request-ID"),
)
