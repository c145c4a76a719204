"""Files that cannot import the list of apps name the same ones."""

import ast
import configparser
import tomllib
from pathlib import Path

from runqy.core.environment.own_packages import APPS

ROOT = Path(__file__).parents[2]
PACKAGES = {"runqy", *APPS}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_each_app_is_listed() -> None:
    assert {path.parent.name for path in ROOT.glob("*/apps.py")} == {*APPS}


def test_each_app_is_packaged() -> None:
    targets = PYPROJECT["tool"]["hatch"]["build"]["targets"]

    assert set(targets["sdist"]["only-include"]) > PACKAGES
    assert set(targets["wheel"]["only-include"]) > PACKAGES


def test_the_image_is_built_from_each_app() -> None:
    assert {f"!{name}" for name in PACKAGES} < {*(ROOT / ".dockerignore").read_text().splitlines()}


def test_types_of_each_app_are_checked() -> None:
    assert set(PYPROJECT["tool"]["mypy"]["files"]) > PACKAGES


def test_imports_of_each_app_are_checked() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")

    assert {*contracts["importlinter"]["root_packages"].split()} == PACKAGES


def test_places_in_each_app_are_broken() -> None:
    module = ast.parse((ROOT / ".ci/mutations.py").read_text())
    (names,) = [node.value for node in module.body if isinstance(node, ast.Assign) and "PACKAGES" in ast.unparse(node)]

    assert {*ast.literal_eval(names)} == {*PACKAGES, "sdk"}
