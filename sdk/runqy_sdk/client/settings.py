"""Which server a client uses, and with which key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runqy_sdk.client.errors import ConfigurationError


def find_server(url: str | None, api_key: str | None, profile: str | None) -> tuple[str, str]:
    """Return the URL and the key of a server. Raise ConfigurationError.

    They are the arguments, else RUNQY_SERVER_URL and RUNQY_API_KEY, else a profile of the command line: that of the
    argument, of RUNQY_PROFILE, or the current one.
    """
    environment = os.environ
    url = url or ("" if profile else environment.get("RUNQY_SERVER_URL") or environment.get("RUNQY_SERVER") or "")
    saved: dict[str, str] = {}
    if not url:
        saved = _read_profile(profile or environment.get("RUNQY_PROFILE") or "")
        url = saved.get("url", "")
    # The key of a profile is sent to its own server only.
    key = api_key or saved.get("key") or environment.get("RUNQY_API_KEY") or ""
    if not url:
        raise ConfigurationError(
            "no server: pass url, set RUNQY_SERVER_URL, or use `runqy login` of the command line first"
        )
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ConfigurationError(f"{url!r} is no URL of a server, such as https://runqy.example.com")
    if not key:
        raise ConfigurationError("no API key: pass api_key or set RUNQY_API_KEY")
    return url.rstrip("/"), key


def _read_profile(name: str) -> dict[str, str]:
    """Return a profile of the command line; an empty one if there is no name and none is current."""
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    path = (Path(folder) if folder.startswith("/") else Path.home() / ".config") / "runqy" / "profiles.json"
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read()
        saved: dict[str, Any] = json.loads(content)
        name = name or str(saved.get("current") or "")
        if not name:
            return {}
        profile = saved["profiles"][name]
        found = {"url": str(profile["url"]), "key": str(profile["key"])}
    except FileNotFoundError:
        if not name:
            return {}
        raise ConfigurationError(f"there is no profile {name!r}: {path} does not exist") from None
    except KeyError:
        raise ConfigurationError(f"there is no profile {name!r} in {path}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if mode & 0o077:
        raise ConfigurationError(f"other users can read the API keys in {path}: run `chmod 600 {path}`")
    return found
