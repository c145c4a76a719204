"""The settings that no variable changes: Django's apps, middleware, templates, logins, and the API's.

Imported by settings.py.
"""

from runqy.api import rest_framework
from runqy.core.environment.own_packages import APPS

TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
USE_I18N = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
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
    "runqy.configuration",
    "runqy.maintenance",
    *APPS,
]
MIDDLEWARE = [
    "runqy.server.middleware.RequestDurationMiddleware",
    "runqy.server.middleware.TracingMiddleware",
    "runqy.server.middleware.RequestIdMiddleware",
    "runqy.server.middleware.ConfigurationPollingMiddleware",
    "runqy.server.middleware.ProxyHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "runqy.server.middleware.SecurityHeadersMiddleware",
    "runqy.server.middleware.BodySizeMiddleware",
    "runqy.server.middleware.NulMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "runqy.server.middleware.AdminHostMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "runqy.server.middleware.AuditActorMiddleware",
    "runqy.accounts.admin.middleware.TimeZoneMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "runqy.server.middleware.PublicationWarningMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
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
SECURE_REDIRECT_EXEMPT = ["^(health|livez|metrics|readyz)$"]
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # these affect other hosts, so they are opt-in
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "runqy_session", "runqy_csrf"
LOGIN_URL, LOGIN_REDIRECT_URL = "admin:login", "admin:index"
CSRF_FAILURE_VIEW = "runqy.admin_site.error_pages.csrf_failure"
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # serve files without collectstatic
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# Attempts to log in and wrong API keys of an address are limited by the first, wrong passwords of a user name at an
# address by the failure limit of axes.
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
REST_FRAMEWORK = rest_framework.REST_FRAMEWORK
SPECTACULAR_SETTINGS = rest_framework.SPECTACULAR_SETTINGS
CORS_URLS_REGEX = "^/(?!admin/)"
CORS_ALLOW_HEADERS, CORS_EXPOSE_HEADERS = rest_framework.REQUEST_HEADERS, rest_framework.RESPONSE_HEADERS
