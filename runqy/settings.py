"""Settings, read from the environment once and typed. docs/reference/settings.md lists the variables.

Those that no variable changes are in runqy/server/framework.py.
"""

from pathlib import Path

from runqy.admin_site import theme
from runqy.broker import constants
from runqy.core.environment import connection_urls, home, own_packages, process
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.environment.variables import Environment, parse_master_keys
from runqy.core.formats.durations import Rate
from runqy.core.telemetry import logs
from runqy.server.framework import *  # noqa: F403
from runqy.server.framework import INSTALLED_APPS, MIDDLEWARE

env = Environment()

env.section = "This instance"
own_packages.require_own_packages()  # before anything imports one
process.restrict_new_files()  # every process reads its settings before it creates a file
RUNQY_HOME = env.path(
    "RUNQY_HOME",
    Path(".runqy").absolute(),
    shown_default="`./.runqy`",
    help="all data of the instance: SQLite file, Valkey's data, generated keys, deployments. Its mode is "
    "set to 0700 at each start, unless another user owns it; files of the server are accessible only "
    "to its user",
)
PORT = env.count("PORT", 3000, lowest=1, highest=65535, help="port that the server listens on")
DEBUG = env.flag("DEBUG", help="Django's debug mode; never enable it in production")
RUNQY_ENVIRONMENT = env.text(
    "RUNQY_ENVIRONMENT",
    help="name of the environment, a badge on every admin page: `production` is red, `staging` amber, any other blue",
)
UNFOLD = theme.get_unfold_settings(RUNQY_ENVIRONMENT)
RUNQY_PUBLIC_URL = env.parsed(
    "RUNQY_PUBLIC_URL",
    connection_urls.parse_public_url,
    "",
    help="URL at which browsers reach the server, `https://runqy.example.com`; links of "
    "[alerts](alerts.md) begin with it, and are paths without it",
)
RUNQY_DOCS_URL = env.parsed(
    "RUNQY_DOCS_URL",
    connection_urls.parse_page_url,
    "",
    help="URL at which you publish this documentation (`make docs`); the start page and Swagger link to it",
)
RUNQY_ALERT_WEBHOOK_URL = env.text("RUNQY_ALERT_WEBHOOK_URL", help="where [alerts](alerts.md) are sent")
RUNQY_ALERT_WEBHOOK_SECRET = env.text(
    "RUNQY_ALERT_WEBHOOK_SECRET", help="signs what is sent there: base64, which may begin with `whsec_`"
)
RUNQY_WEBHOOK_NETWORKS = env.networks(
    "RUNQY_WEBHOOK_NETWORKS",
    help="private networks that [webhooks](../how-to/webhooks.md#where-messages-may-be-sent) may be sent to, also by "
    "http, such as `10.2.0.0/16`; `runqy up` opens this machine",
)
EMAIL_HOST = env.text(
    "EMAIL_HOST", help="mail server that [alerts](alerts.md#targets) are sent by; unset: the server sends no e-mail"
)
EMAIL_PORT = env.count("EMAIL_PORT", 587, lowest=1, highest=65535, help="port of the mail server")
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER", help="user of the mail server; unset: no login")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD", help="password of the mail server")
EMAIL_USE_TLS = env.flag("EMAIL_USE_TLS", help="encrypt by STARTTLS, usual on port 587")
EMAIL_USE_SSL = env.flag("EMAIL_USE_SSL", help="encrypt from the first byte, usual on port 465")
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", help="sender of e-mails, `runqy <runqy@example.com>`")
LOGGING = logs.dict_config(env.choice("RUNQY_LOG_LEVEL", logs.LEVELS, "info", help="debug, info, warning, error"))
logs.configure_structlog()

env.section = "Authentication"
SECRET_KEY = env.text(
    "RUNQY_SECRET_KEY",
    shown_default="generated in `RUNQY_HOME`",
    help="signs sessions, cursors, the published configuration and audit records that wait in Redis "
    "([audit](audit.md)); the same for all servers of an installation",
)
if SECRET_KEY_IS_GENERATED := not SECRET_KEY:
    SECRET_KEY = home.get_or_create_secret(RUNQY_HOME, "secret_key")
RUNQY_API_KEY = env.text(
    "RUNQY_API_KEY",
    help="API key with role admin; `runqy up` generates one. This and the next three should have 32 "
    "characters or more ([why](#keys-that-are-too-short))",
)
RUNQY_WORKER_API_KEY = env.text("RUNQY_WORKER_API_KEY", help="API key with role worker: only registers workers")
RUNQY_WORKER_API_KEY_QUEUES = env.words(
    "RUNQY_WORKER_API_KEY_QUEUES",
    help="queues, separated by commas, that RUNQY_WORKER_API_KEY is limited to; unset: all",
)
RUNQY_CLIENT_API_KEY = env.text(
    "RUNQY_CLIENT_API_KEY", help="API key with role client: enqueues, reads, cancels and deletes tasks"
)
RUNQY_METRICS_TOKEN = env.text(
    "RUNQY_METRICS_TOKEN",
    help="API key with role metrics: only reads [`/metrics`](metrics.md); `runqy up` generates one",
)
RUNQY_METRICS_PUBLIC = env.flag(
    "RUNQY_METRICS_PUBLIC", help="show `/metrics` without a key, to everyone who reaches the server"
)
SESSION_COOKIE_AGE = env.seconds(
    "RUNQY_SESSION_MAX_AGE",
    12 * 3600,
    lowest=60,
    help="how long after the login staff must log in to the admin again, however active they are; at least a minute",
)
RUNQY_VAULT_MASTER_KEY = env.parsed(
    "RUNQY_VAULT_MASTER_KEY",
    parse_master_keys,
    "",
    shown_default="generated by `runqy up`",
    help="base64 of 32 bytes (`runqy manage generate_vault_key`); several separated by commas: the first "
    "encrypts, all decrypt. Unset: vaults respond 503",
)
RUNQY_AUDIT_KEPT_S = env.seconds(
    "RUNQY_AUDIT_KEPT", 0, help="how long records of the [audit](audit.md#retention) are kept, `8760h`; 0: no limit"
)
RUNQY_DELIVERIES_KEPT_S = env.seconds(
    "RUNQY_DELIVERIES_KEPT",
    90 * 24 * 3600,
    help="how long [deliveries of secrets](vaults.md#deliveries-of-secrets) are kept; 0: no limit",
)
RUNQY_CONFIG_MAX_AGE_S = env.seconds(
    "RUNQY_CONFIG_MAX_AGE",
    60,
    lowest=10,
    help="how long a web process delivers secrets and serves administration while neither Redis nor the "
    "database confirms the configuration; then 503 `configuration_unconfirmed`; tasks are not "
    "affected; at least `10s`",
)
RUNQY_RATE_LIMIT = env.rate(
    "RUNQY_RATE_LIMIT",
    None,
    help="rate limit of each API key, `50/s`, `600/m` or `10000/h`; beyond it 429. A key with its own "
    "`rate_limit` uses that instead",
)
RUNQY_REGISTRATION_LIMIT = env.rate(
    "RUNQY_REGISTRATION_LIMIT",
    Rate(1200, 60),
    help="rate limit of worker registrations of each API key, one for each queue of a worker; beyond it "
    "429, and workers retry. `off`: no limit",
)
RUNQY_AUTH_FAILURE_LIMIT = env.rate(
    "RUNQY_AUTH_FAILURE_LIMIT",
    Rate(30, 60),
    help="rate limit of requests with a wrong key from an address (an IPv6 /64); beyond it 429; `off`: no "
    "limit. Valid keys are never counted, and never refused unless they are short (below). Logins to "
    "the admin are counted separately",
)

env.section = "Browsers and proxies"
ALLOWED_HOSTS = list(
    env.words(
        "RUNQY_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"), help="host names of the admin, separated by commas"
    )
)
CSRF_TRUSTED_ORIGINS = list(
    env.words("RUNQY_CSRF_ORIGINS", help="origins that may submit the admin's forms, `https://runqy.example.com`")
)
RUNQY_TRUSTED_PROXIES = env.networks(
    "RUNQY_TRUSTED_PROXIES",
    help="addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` headers are trusted",
)
RUNQY_PUBLIC_RESULTS = env.flag(
    "RUNQY_PUBLIC_RESULTS",
    help="serve `GET /queue/{id}` without a key to everyone who knows the id of a task, payload included, "
    "as the Go server does; `RUNQY_RATE_LIMIT` then counts by address. [Pages in "
    "browsers](http-api.md#pages-in-browsers)",
)
RUNQY_CORS_ORIGINS = env.parsed(
    "RUNQY_CORS_ORIGINS",
    connection_urls.parse_origins,
    tuple[str, ...](),
    help="origins whose pages may read responses of the API, `https://app.example.com`, separated by "
    "commas; never those of the admin",
)
CORS_ALLOWED_ORIGINS = RUNQY_CORS_ORIGINS
if RUNQY_CORS_ORIGINS:
    INSTALLED_APPS.append("corsheaders")
    MIDDLEWARE.insert(
        MIDDLEWARE.index("runqy.server.middleware.BodySizeMiddleware"), "runqy.server.cors.CorsMiddleware"
    )

# HTTPS, at this server or at a proxy in front of it
RUNQY_HTTPS = env.flag(
    "RUNQY_HTTPS", help="the server is reached by https: secure cookies, redirect, HSTS for this host"
)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = RUNQY_HTTPS
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if RUNQY_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.flag(
    "RUNQY_HSTS_INCLUDE_SUBDOMAINS",
    help="with `RUNQY_HTTPS`, HSTS for all subdomains of this host too, for a year: set it only if each of"
    " them is reached by https",
)
SECURE_HSTS_PRELOAD = env.flag(
    "RUNQY_HSTS_PRELOAD",
    help="with `RUNQY_HTTPS`, allow browsers' lists of hosts that are only reached by https to include "
    "this one; hard to undo",
)

env.section = "Database and Redis"
_sqlite = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(
        env.path(
            "SQLITE_DB_PATH",
            RUNQY_HOME / "db.sqlite3",
            shown_default="`$RUNQY_HOME/db.sqlite3`",
            help="used if no PostgreSQL is configured; a writer waits at most 5 s for another one. The mode of the"
            " file and its journals is set to 0600",
        )
    ),
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",  # else two transactions that read before they write fail at once
        "timeout": 5,  # s that a writer waits for the lock
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; "
        "PRAGMA wal_autocheckpoint=4000",  # pages of 4 KiB; the history's own checkpoints are earlier
    },
    "CONN_MAX_AGE": 60,  # s; to connect takes as long as five queries
}
_postgresql = connection_urls.postgresql_settings(
    host=env.text("DATABASE_HOST", help="host of PostgreSQL, with the following five instead of `DATABASE_URL`"),
    port=env.count("DATABASE_PORT", 5432, lowest=1, highest=65535, help="its port"),
    user=env.text("DATABASE_USER", help="user"),
    password=env.text("DATABASE_PASSWORD", help="password"),
    name=env.text("DATABASE_DBNAME", "runqy", help="name of the database"),
    options={
        "sslmode": env.parsed(
            "DATABASE_SSL", connection_urls.parse_ssl_mode, "prefer", help="`sslmode` of the connection"
        )
    },
)
_by_parts = _postgresql if _postgresql["HOST"] else _sqlite
DATABASES = {
    "default": _sqlite
    | env.parsed(
        "DATABASE_URL",
        connection_urls.parse_database_url,
        _by_parts,
        help="`postgresql://user:password@host:5432/name?sslmode=require`; its options go to libpq. Defaults: "
        "`connect_timeout=3`, `tcp_user_timeout=5000`, `keepalives_idle=5`, `keepalives_interval=2`, "
        "`keepalives_count=3`, and `statement_timeout=10s` (0: no limit; migrations have none)",
    )
}
if DATABASES["default"]["NAME"] == str(RUNQY_HOME / "db.sqlite3"):
    home.make_home(RUNQY_HOME)  # SQLite creates the file, but not its folder
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    home.restrict_sqlite(Path(str(DATABASES["default"]["NAME"])))

# Redis
_redis_host = env.text("REDIS_HOST", help="host of Redis, with the following three instead of `REDIS_URL`")
_redis_parts = RedisTarget(
    addresses=((_redis_host, env.count("REDIS_PORT", 6379, lowest=1, highest=65535, help="its port")),),
    password=env.text("REDIS_PASSWORD", help="password"),
    use_tls=env.flag("REDIS_TLS", help="connect with TLS"),
)
_redis_target = env.parsed(
    "REDIS_URL",
    connection_urls.parse_redis_url,
    _redis_parts if _redis_host else None,
    help="`redis://user:password@host:6379/0`; `rediss://` with TLS (`?ca=/path/authority.pem`); "
    "`redis+sentinel://h1:26379,h2:26379/0?master=name`; `redis+cluster://h1:6379,h2:6379`",
)
REDIS_IS_CONFIGURED = _redis_target is not None
REDIS_TARGET = _redis_target or connection_urls.parse_redis_url("redis://127.0.0.1:6379")
RUNQY_WORKER_REDIS_TARGET = env.parsed(
    "RUNQY_WORKER_REDIS_URL",
    connection_urls.parse_redis_url,
    REDIS_TARGET,
    shown_default="as the server's; with the Valkey of `runqy up` its user `default`",
    help="URL of Redis for workers; its user and password go to workers that have [no user of their "
    "own](redis-users.md)",
)
RUNQY_WORKER_ACL = env.choice(
    "RUNQY_WORKER_ACL",
    ("auto", "required", "off"),
    "auto",
    help="which workers get [a Redis user of their own](redis-users.md): `auto`, `required` or `off`",
)

env.section = "Queues and tasks"
QUEUE_WORKERS_DIR = env.path(
    "QUEUE_WORKERS_DIR",
    Path("queue_workers").absolute(),
    shown_default="`./queue_workers`",
    help="folder of [queue files](queue-files.md), loaded at the start; `runqy up` without it serves the examples",
)
RUNQY_SUBQUEUE_SEPARATOR = env.choice(
    "RUNQY_SUBQUEUE_SEPARATOR",
    ("_", "."),
    "_",
    help="`_` or `.`: separator of sub-queues in responses and in Redis; requests may use both. With `.` a"
    " queue without sub-queues is `<queue>.default` in Redis, as in the [Go "
    "system](../how-to/from-go-runqy.md)",
)
RUNQY_HIDE_PAYLOADS = env.flag(
    "RUNQY_HIDE_PAYLOADS",
    help="hide payloads, results, errors and unique keys of tasks from viewers "
    "([admin](admin.md#hiding-payloads)). The [history of runs](history.md#privacy) then stores no "
    "payloads, results and tracebacks",
)
RUNQY_FOREIGN_QUEUES = frozenset(
    env.words(
        "RUNQY_FOREIGN_QUEUES",
        help="names of queues, separated by commas, that other programs, such as asynq's clients, enqueue to "
        "directly; `*`: all. `GET /queue/{task_id}` looks for their tasks in these queues only, whose "
        "workers could forge tasks under ids of deleted ones",
    )
)
ASYNQ_READ_ONLY = env.flag(
    "ASYNQ_READ_ONLY", help="make tasks read-only in the admin, and disable pausing of queues; the API is not affected"
)
RUNQY_DEFAULT_MAX_RETRY = env.count(
    "RUNQY_DEFAULT_MAX_RETRY", 3, highest=10_000, help="retries of a task whose queue has no `max_retry`"
)
RUNQY_DEFAULT_TTL_COMPLETED_S = env.seconds(
    "RUNQY_DEFAULT_TTL_COMPLETED", 24 * 3600, help="how long a completed task is kept"
)
RUNQY_DEFAULT_TTL_ARCHIVED_S = env.seconds(
    "RUNQY_DEFAULT_TTL_ARCHIVED", 72 * 3600, lowest=1, help="how long an archived task is kept"
)
RUNQY_ARCHIVE_MAX_TASKS = env.count(
    "RUNQY_ARCHIVE_MAX_TASKS",
    constants.ARCHIVE_MAX_TASKS,
    lowest=1,
    highest=10_000_000,
    help="how many archived tasks each Redis queue keeps, those that expire last, 1 to 10,000,000; each "
    "takes about 1 KiB of Redis in addition to its payload. Go's workers keep 10,000",
)
RUNQY_MAX_SCHEDULES_BY_KEY = env.count(
    "RUNQY_MAX_SCHEDULES_BY_KEY",
    1000,
    lowest=1,
    highest=1_000_000,
    help="how many schedules an API key may create; those that exist stay",
)
RUNQY_MAX_SCHEDULES_BY_QUEUE = env.count(
    "RUNQY_MAX_SCHEDULES_BY_QUEUE",
    10_000,
    lowest=1,
    highest=1_000_000,
    help="how many schedules a queue may have, apart from those of queue files of the server; those that exist stay",
)
RUNQY_TASK_OUTPUT = env.flag(
    "RUNQY_TASK_OUTPUT",
    default=True,
    help="keep [what tasks print](protocol.md#output-and-progress): up to 64 KiB of Redis for each of a "
    "task's last five attempts; also off with `RUNQY_HIDE_PAYLOADS`, and for queues with "
    "`hide_payloads`",
)
RUNQY_DEFAULT_PENDING_TIMEOUT_S = env.seconds(
    "RUNQY_DEFAULT_PENDING_TIMEOUT", 0, help="how long a task may wait before it is archived; 0: no limit"
)
RUNQY_DEFAULT_ACTIVE_TIMEOUT_S = env.seconds("RUNQY_DEFAULT_ACTIVE_TIMEOUT", 1800, lowest=1, help="time limit of a run")
RUNQY_DEFAULT_MAX_WAITING_TASKS = env.count(
    "RUNQY_DEFAULT_MAX_WAITING_TASKS",
    0,
    help="how many pending, scheduled and retry tasks each sub-queue may have; enqueueing another is 429 "
    "`queue_full`. 0: no limit",
)
RUNQY_HISTORY_DAYS = env.count(
    "RUNQY_HISTORY_DAYS", 7, lowest=1, highest=3650, help="how many days [runs](history.md) are kept, 1 to 3650"
)
RUNQY_HISTORY_MAX_ROWS = env.count(
    "RUNQY_HISTORY_MAX_ROWS",
    1_000_000,
    lowest=1000,
    highest=1_000_000_000,
    help="how many runs of each queue are kept, the newest; at least 1000",
)
RUNQY_HISTORY_MAX_RATE = env.count(
    "RUNQY_HISTORY_MAX_RATE",
    2000,
    help="how many successes a second of each Redis queue are stored as runs; further ones are only "
    "counted. 0: no limit. Failures are always stored",
)
RUNQY_GIT_CHECK_PRIVATE = env.flag(
    "RUNQY_GIT_CHECK_PRIVATE",
    shown_default="false; true in `runqy up`",
    help="allow the server to read repositories in private networks, on this machine and its disk: for the admin's "
    "check, and for the newest commit after a push",
)
RUNQY_LEASE_S = env.seconds(
    "RUNQY_LEASE",
    constants.LEASE_S,
    lowest=1,
    help="duration of a task's lease, which its worker extends. Do not change it if Go workers use the same Redis",
)
RUNQY_RECOVERY_GRACE_S = env.seconds(
    "RUNQY_RECOVERY_GRACE",
    constants.RECOVERY_GRACE_S,
    help="how long after the end of a lease a task is recovered; allows for clock differences",
)

env.section = "A web process"
WEB_CONCURRENCY = env.count("WEB_CONCURRENCY", 2, lowest=1, highest=256, help="web processes")
RUNQY_MAX_BODY_SIZE = DATA_UPLOAD_MAX_MEMORY_SIZE = env.size(
    "RUNQY_MAX_BODY_SIZE",
    50 << 20,
    help="largest body of a request, forms and their files included; 1 MiB without a valid key or the "
    "session of a user under `runqy serve`",
)
# In memory only: BodySizeMiddleware limits the body, and no temporary file is written.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
FILE_UPLOAD_MAX_MEMORY_SIZE = RUNQY_MAX_BODY_SIZE
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000  # a vault's page has seven for each entry
RUNQY_BODY_MEMORY = env.size(
    "RUNQY_BODY_MEMORY",
    256 << 20,
    help="memory of a web process for the bodies of all its requests: a quarter of it for those without a "
    "valid key or session, and of sessions up to 1 MiB; three quarters for bodies over 1 MiB, half for those of one "
    "key. Beyond it 503 with `Retry-After`, and large bodies are not read. Never less than `RUNQY_MAX_BODY_SIZE`",
)
RUNQY_BATCH_MEMBERS = env.count(
    "RUNQY_BATCH_MEMBERS",
    500_000,
    help="members of batches that may wait in the database to be enqueued on a sub-queue, and half as many of one key; "
    "more get 429 `batches_full`",
)
RUNQY_BATCH_MEMORY = env.size(
    "RUNQY_BATCH_MEMORY",
    256 << 20,
    help="bytes that waiting members and callbacks of batches may take in the database for a sub-queue, and half of "
    "that of one key; more get 429 `batches_full`",
)
RUNQY_DJANGO_THREADS = env.count(
    "RUNQY_DJANGO_THREADS",
    4,
    lowest=1,
    highest=256,
    help="threads of a web process that run the admin and most of the API; at most 128 further requests "
    "wait for one, for at most 5 s, others get 503. Under a plain WSGI server: how many threads it has",
)
RUNQY_MAX_WAITERS = env.count(
    "RUNQY_MAX_WAITERS",
    5000,
    help="requests of a web process that may wait for results or follow events, streams or logs, half of them with "
    "one key; one more gets 503 `too_many_waiters`",
)
RUNQY_WSGI_WAITERS = env.count(
    "RUNQY_WSGI_WAITERS",
    16,
    help="of those, the requests that hold a thread, at most half of `RUNQY_DJANGO_THREADS`: all under a plain WSGI "
    "server, whose number of threads that setting then has to be. Such a server does not report disconnected clients, "
    "so a wait holds its thread to its end",
)
RUNQY_DRAIN_S = env.seconds(
    "RUNQY_DRAIN_S",
    0,
    highest=600,
    help="how long a web process continues after SIGTERM while `/readyz` responds 503, so that load "
    "balancers stop sending requests: [how to choose "
    "it](../how-to/zero-downtime-upgrade.md)",
)
