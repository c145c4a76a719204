"""Reads the environment, once and typed; docs/settings.md lists the variables."""

from importlib.metadata import version
from pathlib import Path

from runqy import addresses, home, logs
from runqy.broker import timing
from runqy.broker.connection import RedisTarget
from runqy.broker.rates import Rate
from runqy.broker.states import TaskState
from runqy.environment import Environment, parse_master_keys
from runqy.staff import looks

env = Environment()

# This instance
home.restrict_new_files()  # here, as every process of the server reads its settings before it creates a file
RUNQY_HOME = env.path("RUNQY_HOME", Path(".runqy").absolute())
PORT = env.count("PORT", 3000, lowest=1, highest=65535)
DEBUG = env.flag("DEBUG")
RUNQY_ENVIRONMENT = env.text("RUNQY_ENVIRONMENT")
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
USE_I18N = False
LOGGING_CONFIG = "runqy.logs.configure"
LOGGING = {"level": env.choice("RUNQY_LOG_LEVEL", logs.LEVELS, "info")}

# Who may enter
SECRET_KEY_IS_GENERATED = not env.text("RUNQY_SECRET_KEY")
SECRET_KEY = env.text("RUNQY_SECRET_KEY") or home.kept_secret(RUNQY_HOME, "secret_key")
RUNQY_API_KEY = env.text("RUNQY_API_KEY")
RUNQY_WORKER_API_KEY = env.text("RUNQY_WORKER_API_KEY")
RUNQY_CLIENT_API_KEY = env.text("RUNQY_CLIENT_API_KEY")
RUNQY_VAULT_MASTER_KEY = env.parsed("RUNQY_VAULT_MASTER_KEY", parse_master_keys, "")
RUNQY_DELIVERIES_KEPT_S = env.seconds("RUNQY_DELIVERIES_KEPT", 90 * 24 * 3600)
RUNQY_CONFIG_MAX_AGE_S = env.seconds("RUNQY_CONFIG_MAX_AGE", 60, lowest=10)
RUNQY_RATE_LIMIT = env.rate("RUNQY_RATE_LIMIT", None)
RUNQY_AUTH_FAILURE_LIMIT = env.rate("RUNQY_AUTH_FAILURE_LIMIT", Rate(30, 60))
RUNQY_HIDE_PAYLOADS = env.flag("RUNQY_HIDE_PAYLOADS")
ASYNQ_READ_ONLY = env.flag("ASYNQ_READ_ONLY")
ALLOWED_HOSTS = list(env.words("RUNQY_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]")))
CSRF_TRUSTED_ORIGINS = list(env.words("RUNQY_CSRF_ORIGINS"))
RUNQY_TRUSTED_PROXIES = env.networks("RUNQY_TRUSTED_PROXIES")

# HTTPS, at this server or at the proxy before it
RUNQY_HTTPS = env.flag("RUNQY_HTTPS")
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = RUNQY_HTTPS
SECURE_REDIRECT_EXEMPT = ["^(health|livez|readyz)$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if RUNQY_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.flag("RUNQY_HSTS_INCLUDE_SUBDOMAINS")
SECURE_HSTS_PRELOAD = env.flag("RUNQY_HSTS_PRELOAD")
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # these two decide about other hosts: only when asked for
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "runqy_session", "runqy_csrf"
SESSION_COOKIE_AGE = 12 * 3600  # after the last visit, as AuditActorMiddleware renews it
CSRF_FAILURE_VIEW = "runqy.staff.plain_pages.form_expired"

# Database
_sqlite = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(env.path("SQLITE_DB_PATH", RUNQY_HOME / "db.sqlite3")),
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",  # else two writers that both began by reading fail at once
        "timeout": 5,  # s that a writer waits for another one
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON",
    },
}
_postgresql = addresses.postgresql(
    host=env.text("DATABASE_HOST"),
    port=env.count("DATABASE_PORT", 5432, lowest=1, highest=65535),
    user=env.text("DATABASE_USER"),
    password=env.text("DATABASE_PASSWORD"),
    name=env.text("DATABASE_DBNAME", "runqy"),
    options={"sslmode": env.parsed("DATABASE_SSL", addresses.parse_ssl_mode, "prefer")},
)
_by_parts = _postgresql if _postgresql["HOST"] else _sqlite
DATABASES = {"default": _sqlite | env.parsed("DATABASE_URL", addresses.parse_database_url, _by_parts)}
if DATABASES["default"]["NAME"] == str(RUNQY_HOME / "db.sqlite3"):
    home.make_home(RUNQY_HOME)  # SQLite makes a file, not its folder
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    home.restrict_sqlite(Path(str(DATABASES["default"]["NAME"])))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis
_redis_parts = RedisTarget(
    addresses=((env.text("REDIS_HOST"), env.count("REDIS_PORT", 6379, lowest=1, highest=65535)),),
    password=env.text("REDIS_PASSWORD"),
    use_tls=env.flag("REDIS_TLS"),
)
REDIS_IS_CONFIGURED = bool(env.text("REDIS_URL") or env.text("REDIS_HOST"))
_redis_default = _redis_parts if env.text("REDIS_HOST") else addresses.parse_redis_url("redis://127.0.0.1:6379")
REDIS_TARGET = env.parsed("REDIS_URL", addresses.parse_redis_url, _redis_default)
RUNQY_WORKER_REDIS_TARGET = env.parsed("RUNQY_WORKER_REDIS_URL", addresses.parse_redis_url, REDIS_TARGET)
RUNQY_WORKER_ACL = env.choice("RUNQY_WORKER_ACL", ("auto", "required", "off"), "auto")
DJANGO_REDIS_CONNECTION_FACTORY = "runqy.connection.ConnectionFactory"
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "redis://see-REDIS_TARGET",
        "KEY_PREFIX": "runqy:cache",
        # Not pickle: workers may write to Redis, and what they write must not run here.
        "OPTIONS": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
    }
}

# Queues and tasks
QUEUE_WORKERS_DIR = env.path("QUEUE_WORKERS_DIR", Path("queue_workers").absolute())
RUNQY_SUBQUEUE_SEPARATOR = env.choice("RUNQY_SUBQUEUE_SEPARATOR", ("_", "."), "_")
RUNQY_DEFAULT_MAX_RETRY = env.count("RUNQY_DEFAULT_MAX_RETRY", 3, highest=10_000)
RUNQY_DEFAULT_TTL_COMPLETED_S = env.seconds("RUNQY_DEFAULT_TTL_COMPLETED", 24 * 3600)
RUNQY_DEFAULT_TTL_ARCHIVED_S = env.seconds("RUNQY_DEFAULT_TTL_ARCHIVED", 72 * 3600, lowest=1)
RUNQY_DEFAULT_PENDING_TIMEOUT_S = env.seconds("RUNQY_DEFAULT_PENDING_TIMEOUT", 0)
RUNQY_DEFAULT_ACTIVE_TIMEOUT_S = env.seconds("RUNQY_DEFAULT_ACTIVE_TIMEOUT", 1800, lowest=1)
RUNQY_DEFAULT_MAX_WAITING_TASKS = env.count("RUNQY_DEFAULT_MAX_WAITING_TASKS", 0)
RUNQY_GIT_CHECK_PRIVATE = env.flag("RUNQY_GIT_CHECK_PRIVATE")
RUNQY_LEASE_S = env.seconds("RUNQY_LEASE", timing.LEASE_S, lowest=1)
RUNQY_RECOVERY_GRACE_S = env.seconds("RUNQY_RECOVERY_GRACE", timing.RECOVERY_GRACE_S)
RUNQY_MAX_BODY_SIZE = DATA_UPLOAD_MAX_MEMORY_SIZE = env.size("RUNQY_MAX_BODY_SIZE", 50 << 20)
# In memory only: BodySizeMiddleware has bounded the body that a file is in, and nothing is written to a folder.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
FILE_UPLOAD_MAX_MEMORY_SIZE = RUNQY_MAX_BODY_SIZE
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000  # a vault's page sends seven for each entry

# A web process
RUNQY_BODY_MEMORY = env.size("RUNQY_BODY_MEMORY", 256 << 20)
RUNQY_DATA_PLANE = env.flag("RUNQY_DATA_PLANE", default=True)
RUNQY_DJANGO_THREADS = env.count("RUNQY_DJANGO_THREADS", 4, lowest=1, highest=256)
RUNQY_MAX_WAITERS = env.count("RUNQY_MAX_WAITERS", 5000)
RUNQY_WSGI_WAITERS = env.count("RUNQY_WSGI_WAITERS", 16)
RUNQY_DRAIN_S = env.count("RUNQY_DRAIN_S", 0, highest=600)

# Django's own parts
ROOT_URLCONF = "runqy.urls"
WSGI_APPLICATION = "runqy.wsgi.application"
INSTALLED_APPS = [
    "runqy.accounts",  # first, for its commands that take the place of django.contrib.auth's
    "runqy.staff",  # before unfold, for its templates that take the place of unfold's
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "runqy.staff.apps.StaffAdminConfig",
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
    "runqy.publication",
    "vaults",
    "queues",
    "tasks",
    "workers",
]
MIDDLEWARE = [
    "runqy.middleware.RequestIdMiddleware",
    "runqy.middleware.ConfigurationPollingMiddleware",
    "runqy.middleware.ProxyHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "runqy.middleware.ContentSecurityPolicyMiddleware",
    "runqy.middleware.BodySizeMiddleware",
    "runqy.middleware.NulMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "runqy.middleware.AdminHostMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "runqy.middleware.AuditActorMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "runqy.middleware.PublicationWarningMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
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
WHITENOISE_USE_FINDERS = True  # serves the packages' own files, so that there is no collectstatic to forget
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
UNFOLD = looks.theme(RUNQY_ENVIRONMENT)
AXES_ENABLE_ADMIN = False
AXES_FAILURE_LIMIT = 10
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_DISABLE_ACCESS_LOG = True  # the audit has it
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "runqy.accounts.logins.address_of_client"
AXES_LOCKOUT_CALLABLE = "runqy.accounts.logins.locked_out"

# API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["runqy.api.authentication.BearerTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "runqy.api.permissions.HasRole",
        "runqy.publication.permissions.HasConfirmedConfiguration",
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
    "DESCRIPTION": "Put tasks on queues, read their results, register workers.",
    "VERSION": version("runqy"),
    "OAS_VERSION": "3.1.0",
    "SERVE_PUBLIC": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_NAME_OVERRIDES": {
        "QueueMode": ["long_running", "one_shot"],
        "RedisMode": ["single", "sentinel", "cluster"],
        "TaskState": [state.value for state in TaskState],
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "runqy.openapi_hooks.describe_headers",
        "runqy.openapi_hooks.add_links",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "/static/staff/favicon.svg",
}
