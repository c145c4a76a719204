"""Headers of every response in both planes: about security, and for pages of other origins."""

from django.conf import settings

_SHARED_POLICY = "base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
ADMIN_POLICY = f"default-src 'self'; script-src 'self' 'unsafe-eval'; img-src 'self' data:; {_SHARED_POLICY}"
"""For the admin, whose theme evaluates expressions in attributes."""
PAGE_POLICY = f"default-src 'self'; img-src 'self' data:; {_SHARED_POLICY}"
"""For the other pages: Swagger."""
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For responses that are not pages."""


def security_headers(scheme: str, policy: str = DATA_POLICY) -> dict[str, str]:
    """Return the headers of Django's settings about security, and a content security policy."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": settings.SECURE_REFERRER_POLICY,
        "Cross-Origin-Opener-Policy": settings.SECURE_CROSS_ORIGIN_OPENER_POLICY,
        "X-Frame-Options": settings.X_FRAME_OPTIONS,
        "Content-Security-Policy": policy,
    }
    if scheme == "https" and settings.SECURE_HSTS_SECONDS:
        has_subdomains, may_preload = settings.SECURE_HSTS_INCLUDE_SUBDOMAINS, settings.SECURE_HSTS_PRELOAD
        options = ("; includeSubDomains" if has_subdomains else "") + ("; preload" if may_preload else "")
        headers["Strict-Transport-Security"] = f"max-age={settings.SECURE_HSTS_SECONDS}{options}"
    return headers


def cors_headers(origin: str) -> dict[str, str]:
    """Return the headers of the response to a page of an origin, or to a client without one, if it has any."""
    headers = {"Vary": "origin"}
    if origin in settings.CORS_ALLOWED_ORIGINS:
        exposed = ", ".join(settings.CORS_EXPOSE_HEADERS)
        headers |= {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": exposed}
    return headers
