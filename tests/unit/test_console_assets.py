"""The console's static files: hashed URLs, third-party files as published, and no inline script or style in any template."""

import hashlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import api.console
from api.console.assets import load_assets

FOLDER = Path(api.console.__file__).parent
VENDOR = FOLDER / "static/vendor"
TEMPLATES = sorted(path for path in (FOLDER / "templates").iterdir() if path.suffix in (".html", ".svg"))
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'  # a name: no browser requests it


def test_each_file_has_a_url_with_its_hash() -> None:
    assets = load_assets()
    assert {"console.css", "overview.js", "vendor/htmx.min.js", "vendor/uPlot.iife.min.js"} <= assets.urls.keys()
    for name, url in assets.urls.items():
        content, media_type = assets.files[url]
        assert content == (FOLDER / "static" / name).read_bytes() and media_type
        assert hashlib.sha256(content).hexdigest()[:16] in url


def test_the_package_contains_every_template_and_file() -> None:
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text("utf-8"))
    patterns = [each.split("/") for each in project["tool"]["setuptools"]["package-data"]["*"]]
    files = [path.relative_to(FOLDER).parts for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for parts in files:
        assert parts[-1].endswith(".py") or any(
            len(parts) == len(pattern) and all(map(fnmatch, parts, pattern)) for pattern in patterns
        ), parts


def test_third_party_files_are_those_of_the_list() -> None:
    rows = re.findall(
        r"^\| `([\w.-]+)` \| `[\w.-]+` \| [\d.]+ \| \w+ \| `(\w{64})` \|$", (VENDOR / "README.md").read_text(), re.M
    )
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir() if path.suffix in (".js", ".css")
    }
    assert dict(rows) == found
    assert {path.name for path in VENDOR.glob("*.LICENSE")} == {"htmx.LICENSE", "htmx-ext-sse.LICENSE", "uPlot.LICENSE"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_what_the_policy_forbids(path: Path) -> None:
    text = path.read_text("utf-8").replace(NAMESPACE, "")
    assert not re.search(r"<style|\sstyle=|\son\w+=|hx-on|javascript:|https?://", text)
    assert all("src=" in script for script in re.findall(r"<script[^>]*>", text))
    assert "|safe" not in text.replace(" ", "")
