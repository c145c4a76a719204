"""Settings, read from the environment once and typed. docs/reference/settings.md lists the variables."""

from importlib.metadata import version
from pathlib import Path

from runqy.admin_site import theme
from runqy.broker import constants
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.rate_limit import Rate
from runqy.broker.states import RunOutcome, TaskState
from runqy.config import connection_urls, home, own_packages, process
from runqy.config.env import Environment, parse_master_keys
from runqy.telemetry import logs

env = Environment()

# This instance
own_packages.require_own_packages()  # before anything imports one
process.restrict_new_files()  # every process reads its settings before it creates a file
RUNQY_HOME = env.path("RUNQY_HOME", Path(".runqy").absolute())
PORT = env.count("PORT", 3000, lowest=1, highest=65535)
DEBUG = env.flag("DEBUG")
RUNQY_ENVIRONMENT = env.text("RUNQY_ENVIRONMENT")
RUNQY_PUBLIC_URL = env.parsed("RUNQY_PUBLIC_URL", connection_urls.parse_public_url, "")
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
USE_I18N = False
LOGGING = logs.dict_config(env.choice("RUNQY_LOG_LEVEL", logs.LEVELS, "info"))
logs.configure_structlog()

# Authentication
SECRET_KEY = env.text("RUNQY_SECRET_KEY")
if SECRET_KEY_IS_GENERATED := not SECRET_KEY:
    SECRET_KEY = home.get_or_create_secret(RUNQY_HOME, "secret_key")
RUNQY_API_KEY = env.text("RUNQY_API_KEY")
RUNQY_WORKER_API_KEY = env.text("RUNQY_WORKER_API_KEY")
RUNQY_CLIENT_API_KEY = env.text("RUNQY_CLIENT_API_KEY")
RUNQY_METRICS_TOKEN = env.text("RUNQY_METRICS_TOKEN")
RUNQY_METRICS_PUBLIC = env.flag("RUNQY_METRICS_PUBLIC")
RUNQY_VAULT_MASTER_KEY = env.parsed("RUNQY_VAULT_MASTER_KEY", parse_master_keys, "")
RUNQY_AUDIT_KEPT_S = env.seconds("RUNQY_AUDIT_KEPT", 0)
RUNQY_DELIVERIES_KEPT_S = env.seconds("RUNQY_DELIVERIES_KEPT", 90 * 24 * 3600)
RUNQY_CONFIG_MAX_AGE_S = env.seconds("RUNQY_CONFIG_MAX_AGE", 60, lowest=10)
RUNQY_RATE_LIMIT = env.rate("RUNQY_RATE_LIMIT", None)
RUNQY_REGISTRATION_LIMIT = env.rate("RUNQY_REGISTRATION_LIMIT", Rate(1200, 60))
RUNQY_ALERT_WEBHOOK_URL = env.text("RUNQY_ALERT_WEBHOOK_URL")
RUNQY_ALERT_WEBHOOK_SECRET = env.text("RUNQY_ALERT_WEBHOOK_SECRET")
RUNQY_HIDE_PAYLOADS = env.flag("RUNQY_HIDE_PAYLOADS")
RUNQY_FOREIGN_QUEUES = frozenset(env.words("RUNQY_FOREIGN_QUEUES"))
ASYNQ_READ_ONLY = env.flag("ASYNQ_READ_ONLY")
ALLOWED_HOSTS = list(env.words("RUNQY_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]")))
CSRF_TRUSTED_ORIGINS = list(env.words("RUNQY_CSRF_ORIGINS"))
RUNQY_TRUSTED_PROXIES = env.networks("RUNQY_TRUSTED_PROXIES")
RUNQY_PUBLIC_RESULTS = env.flag("RUNQY_PUBLIC_RESULTS")
RUNQY_CORS_ORIGINS = env.parsed("RUNQY_CORS_ORIGINS", connection_urls.parse_origins, tuple[str, ...]())

# HTTPS, at this server or at a proxy in front of it
RUNQY_HTTPS = env.flag("RUNQY_HTTPS")
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = RUNQY_HTTPS
SECURE_REDIRECT_EXEMPT = ["^(health|livez|metrics|readyz)$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if RUNQY_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.flag("RUNQY_HSTS_INCLUDE_SUBDOMAINS")
SECURE_HSTS_PRELOAD = env.flag("RUNQY_HSTS_PRELOAD")
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # these affect other hosts, so they are opt-in
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "runqy_session", "runqy_csrf"
SESSION_COOKIE_AGE = env.seconds("RUNQY_SESSION_MAX_AGE", 12 * 3600, lowest=60)  # from the login, even if active
LOGIN_URL, LOGIN_REDIRECT_URL = "admin:login", "admin:index"
CSRF_FAILURE_VIEW = "runqy.admin_site.error_pages.csrf_failure"

# Database
_sqlite = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(env.path("SQLITE_DB_PATH", RUNQY_HOME / "db.sqlite3")),
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",  # else two transactions that read before they write fail at once
        "timeout": 5,  # s that a writer waits for the lock
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; "
        "PRAGMA wal_autocheckpoint=4000",  # pages of 4 KiB; the history's own checkpoints are earlier
    },
}
_postgresql = connection_urls.postgresql_settings(
    host=env.text("DATABASE_HOST"),
    port=env.count("DATABASE_PORT", 5432, lowest=1, highest=65535),
    user=env.text("DATABASE_USER"),
    password=env.text("DATABASE_PASSWORD"),
    name=env.text("DATABASE_DBNAME", "runqy"),
    options={"sslmode": env.parsed("DATABASE_SSL", connection_urls.parse_ssl_mode, "prefer")},
)
_by_parts = _postgresql if _postgresql["HOST"] else _sqlite
DATABASES = {"default": _sqlite | env.parsed("DATABASE_URL", connection_urls.parse_database_url, _by_parts)}
if DATABASES["default"]["NAME"] == str(RUNQY_HOME / "db.sqlite3"):
    home.make_home(RUNQY_HOME)  # SQLite creates the file, but not its folder
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    home.restrict_sqlite(Path(str(DATABASES["default"]["NAME"])))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis
_redis_host = env.text("REDIS_HOST")
_redis_parts = RedisTarget(
    addresses=((_redis_host, env.count("REDIS_PORT", 6379, lowest=1, highest=65535)),),
    password=env.text("REDIS_PASSWORD"),
    use_tls=env.flag("REDIS_TLS"),
)
_redis_target = env.parsed("REDIS_URL", connection_urls.parse_redis_url, _redis_parts if _redis_host else None)
REDIS_IS_CONFIGURED = _redis_target is not None
REDIS_TARGET = _redis_target or connection_urls.parse_redis_url("redis://127.0.0.1:6379")
RUNQY_WORKER_REDIS_TARGET = env.parsed("RUNQY_WORKER_REDIS_URL", connection_urls.parse_redis_url, REDIS_TARGET)
RUNQY_WORKER_ACL = env.choice("RUNQY_WORKER_ACL", ("auto", "required", "off"), "auto")
DJANGO_REDIS_CONNECTION_FACTORY = "runqy.redis_connection.ConnectionFactory"
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "redis://see-REDIS_TARGET",
        "KEY_PREFIX": "runqy:cache",
        # Not pickle: workers may write to Redis, and their data must not be executed here.
        "OPTIONS": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
    }
}

# Queues and tasks
QUEUE_WORKERS_DIR = env.path("QUEUE_WORKERS_DIR", Path("queue_workers").absolute())
RUNQY_SUBQUEUE_SEPARATOR = env.choice("RUNQY_SUBQUEUE_SEPARATOR", ("_", "."), "_")
RUNQY_DEFAULT_MAX_RETRY = env.count("RUNQY_DEFAULT_MAX_RETRY", 3, highest=10_000)
RUNQY_DEFAULT_TTL_COMPLETED_S = env.seconds("RUNQY_DEFAULT_TTL_COMPLETED", 24 * 3600)
RUNQY_DEFAULT_TTL_ARCHIVED_S = env.seconds("RUNQY_DEFAULT_TTL_ARCHIVED", 72 * 3600, lowest=1)
RUNQY_ARCHIVE_MAX_TASKS = env.count(
    "RUNQY_ARCHIVE_MAX_TASKS", constants.ARCHIVE_MAX_TASKS, lowest=1, highest=10_000_000
)
RUNQY_TASK_OUTPUT = env.flag("RUNQY_TASK_OUTPUT", default=True)
RUNQY_DEFAULT_PENDING_TIMEOUT_S = env.seconds("RUNQY_DEFAULT_PENDING_TIMEOUT", 0)
RUNQY_DEFAULT_ACTIVE_TIMEOUT_S = env.seconds("RUNQY_DEFAULT_ACTIVE_TIMEOUT", 1800, lowest=1)
RUNQY_DEFAULT_MAX_WAITING_TASKS = env.count("RUNQY_DEFAULT_MAX_WAITING_TASKS", 0)
RUNQY_HISTORY_DAYS = env.count("RUNQY_HISTORY_DAYS", 7, lowest=1, highest=3650)
RUNQY_HISTORY_MAX_ROWS = env.count("RUNQY_HISTORY_MAX_ROWS", 1_000_000, lowest=1000, highest=1_000_000_000)
RUNQY_HISTORY_MAX_RATE = env.count("RUNQY_HISTORY_MAX_RATE", 2000)
RUNQY_GIT_CHECK_PRIVATE = env.flag("RUNQY_GIT_CHECK_PRIVATE")
RUNQY_LEASE_S = env.seconds("RUNQY_LEASE", constants.LEASE_S, lowest=1)
RUNQY_RECOVERY_GRACE_S = env.seconds("RUNQY_RECOVERY_GRACE", constants.RECOVERY_GRACE_S)
RUNQY_MAX_BODY_SIZE = DATA_UPLOAD_MAX_MEMORY_SIZE = env.size("RUNQY_MAX_BODY_SIZE", 50 << 20)
# In memory only: BodySizeMiddleware limits the body, and no temporary file is written.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
FILE_UPLOAD_MAX_MEMORY_SIZE = RUNQY_MAX_BODY_SIZE
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000  # a vault's page has seven for each entry

# A web process
RUNQY_BODY_MEMORY = env.size("RUNQY_BODY_MEMORY", 256 << 20)
RUNQY_DATA_PLANE = env.flag("RUNQY_DATA_PLANE", default=True)
RUNQY_DJANGO_THREADS = env.count("RUNQY_DJANGO_THREADS", 4, lowest=1, highest=256)
RUNQY_MAX_WAITERS = env.count("RUNQY_MAX_WAITERS", 5000)
RUNQY_WSGI_WAITERS = env.count("RUNQY_WSGI_WAITERS", 16)
RUNQY_DRAIN_S = env.count("RUNQY_DRAIN_S", 0, highest=600)

# Django
ROOT_URLCONF = "runqy.urls"
WSGI_APPLICATION = "runqy.wsgi.application"
INSTALLED_APPS = [
    "runqy.accounts",  # first, so that it records the failed login that makes axes lock the user
    "runqy.admin_site",  # before unfold, to override its templates
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "runqy.admin_site.apps.RunqyAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "runqy.api",
    "runqy.audit",
    "runqy.config_sync",
    "runqy.maintenance",
    "vaults",
    "queues",
    "tasks",
    "workers",
    "alerts",
]
MIDDLEWARE = [
    "runqy.http.middleware.RequestDurationMiddleware",
    "runqy.http.middleware.TracingMiddleware",
    "runqy.http.middleware.RequestIdMiddleware",
    "runqy.http.middleware.ConfigurationPollingMiddleware",
    "runqy.http.middleware.ProxyHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "runqy.http.middleware.ContentSecurityPolicyMiddleware",
    "runqy.http.middleware.BodySizeMiddleware",
    "runqy.http.middleware.NulMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "runqy.http.middleware.AdminHostMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "runqy.http.middleware.AuditActorMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "runqy.http.middleware.PublicationWarningMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
CORS_ALLOWED_ORIGINS = RUNQY_CORS_ORIGINS
CORS_URLS_REGEX = "^/(?!admin/)"
CORS_ALLOW_HEADERS = (
    *("accept", "authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "last-event-id"),
    *("prefer", "traceparent", "x-api-key", "x-request-id"),
)
CORS_EXPOSE_HEADERS = (
    *("ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "WWW-Authenticate", "X-Request-ID"),
)
if RUNQY_CORS_ORIGINS:
    INSTALLED_APPS.append("corsheaders")
    MIDDLEWARE.insert(MIDDLEWARE.index("runqy.http.middleware.BodySizeMiddleware"), "runqy.http.cors.CorsMiddleware")
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # serve files without collectstatic
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
UNFOLD = theme.get_unfold_settings(RUNQY_ENVIRONMENT)

# Attempts to log in and wrong API keys of an address are limited by the first, wrong passwords of a user name at an
# address by the failure limit of axes.
RUNQY_AUTH_FAILURE_LIMIT = env.rate("RUNQY_AUTH_FAILURE_LIMIT", Rate(30, 60))
AXES_ENABLE_ADMIN = False
AXES_FAILURE_LIMIT = 10
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_DISABLE_ACCESS_LOG = True  # the audit records logins
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "runqy.accounts.logins.get_client_address"
AXES_LOCKOUT_CALLABLE = "runqy.accounts.logins.lockout_response"

# API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["runqy.api.authentication.BearerTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "runqy.api.permissions.HasRole",
        "runqy.api.permissions.HasConfirmedConfiguration",
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
    "TITLE": "runqy",
    "DESCRIPTION": "Enqueue tasks, read their results, manage queues, vaults and workers.",
    "VERSION": version("runqy"),
    "OAS_VERSION": "3.1.0",
    "SERVE_PUBLIC": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "QueueMode": ["long_running", "one_shot"],
        "RedisMode": ["single", "sentinel", "cluster"],
        "TaskState": [state.value for state in TaskState],
        "RunOutcome": [outcome.value for outcome in RunOutcome],
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "runqy.api.schema.describe_headers",
        "runqy.api.schema.add_links",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "/static/admin_site/favicon.svg",
}
