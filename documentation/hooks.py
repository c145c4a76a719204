"""Hooks of MkDocs: pages from other files of the repository, generated tables, and the list of versions."""

import json
import posixpath
import re
from importlib import metadata
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from documentation import http_api

ROOT = Path(__file__).parents[1]
VERSION = ".".join(metadata.version("runqy").split(".")[:2])
PAGES = {"SECURITY.md": "explanation/security-policy.md", "CHANGELOG.md": "changelog.md"}
"""Files outside docs/ that are pages of the site."""
_state = {"folder": VERSION}
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")
_INDEX = '<!doctype html><title>runqy</title><meta http-equiv="refresh" content="0; url={0}/index.html">'


def on_startup(*, command: str, dirty: bool) -> None:
    """Build into a folder for the version; `mkdocs serve` shows the folder itself."""
    _state["folder"] = "" if command == "serve" else VERSION


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.site_dir = str(Path(config.site_dir) / _state["folder"])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    schema = http_api.get_schema()
    files.append(File.generated(config, "reference/openapi.yaml", content=http_api.schema_as_yaml(schema)))
    for name, content in http_api.build_pages(schema).items():
        files.append(File.generated(config, f"reference/http-api/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links between the repository's files lead to the site's pages."""
    uri = page.file.src_uri
    source = next((source for source, target in PAGES.items() if target == uri), f"docs/{uri}")

    def as_page(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        target = PAGES.get(path, path.removeprefix("docs/"))
        return match[1] + posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return _LINK.sub(as_page, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """List the versions in site/, for the selector, and lead its root to the newest."""
    if not _state["folder"]:
        return
    site = Path(config.site_dir).parent
    folders = [path.parent.name for path in site.glob("*/index.html")]
    versions = sorted(folders, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    (site / "versions.json").write_text(
        json.dumps([{"version": name, "title": name, "aliases": []} for name in versions])
    )
    (site / "index.html").write_text(_INDEX.format(versions[0]))
