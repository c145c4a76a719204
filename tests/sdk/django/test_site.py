"""The example of a Django site: a worker deploys it by git, and resizes what is uploaded."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tests.queues.samples import spec
from tests.sdk.django.test_backend import ROOT, UV, make_environment
from tests.support.environment import CLIENT_KEY
from tests.support.web import WebProcess
from tests.support.wheels import release_wheels
from tests.workers.processes import WorkerProcess, wait_for_record
from tests.workers.repositories import Repository

SITE = ROOT / "examples" / "django"
PHOTO = ROOT / "examples" / "thumbnail" / "cat.jpg"
VISITOR = """
import json, sys, time
import django
django.setup()
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from PIL import Image
from gallery.models import Photo
from gallery.tasks import find_result

visitor, results = Client(SERVER_NAME="localhost"), []
for name, content in (("cat.jpg", open(sys.argv[1], "rb").read()), ("notes.txt", b"no image")):
    assert visitor.post("/", {"original": SimpleUploadedFile(name, content)}).status_code == 302
for photo in Photo.objects.order_by("pk"):
    while not (result := find_result(photo)) or not result.is_finished:
        time.sleep(0.05)
    results.append(result)
good, bad = results
photo = Photo.objects.order_by("pk").first()
print(json.dumps({
    "django": django.VERSION[:2],
    "statuses": [good.status, bad.status],
    "result": good.return_value,
    "thumbnail": Image.open(photo.thumbnail).size,
    "workers": good.worker_ids + bad.worker_ids,
    "error": [bad.errors[0].exception_class_path, bad.errors[0].traceback],
    "page": visitor.get("/").content.decode(),
}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("configuration")]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Return a running server, which reads the tests' changes from Redis."""
    started = WebProcess(tmp_path_factory.mktemp("web"))
    yield started
    started.kill()


@pytest.mark.parametrize(
    ("python_versions", "django_version"),
    [
        # What differs between the two is tested by test_backend.py.
        pytest.param(("3.11",), [5, 2], id="django-5.2", marks=pytest.mark.release),
        pytest.param(("3.12", "3.13", "3.14"), [6], id="django-6"),
    ],
)
def test_a_site_resizes_uploads(
    web: WebProcess, single_broker: Broker, tmp_path: Path, python_versions: tuple[str, ...], django_version: list[int]
) -> None:
    wheels = map(str, release_wheels().glob("*.whl"))  # of runqy, and of the SDK that it needs
    python = make_environment(
        tmp_path / "worker", python_versions, ["-r", str(ROOT / "requirements-worker.txt"), *wheels]
    )
    repository, data = Repository(tmp_path / "gallery.git"), tmp_path / "data"
    repository.commit({str(path.relative_to(SITE)): path.read_bytes() for path in SITE.rglob("*.*") if path.is_file()})
    queue_file = (SITE / "photos.yaml").read_text().replace("/srv/gallery.git", str(repository.folder))
    queue = YAML(typ="safe").load(queue_file.replace("/srv/gallery", str(data)))["queues"]["photos"]
    save_queue(spec=spec("photos", deployment=Deployment(**queue["deployment"])), source=QueueSource.API)
    data.mkdir()
    own = ("RUNQY_", "DJANGO_", "PYTHON")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    worker = WorkerProcess(
        web,
        tmp_path,
        python=python,
        **inherited
        | {
            "RUNQY_QUEUES": "photos",
            "PIP_FIND_LINKS": str(release_wheels()),
            "PATH": f"{UV.parent}:{os.environ['PATH']}",
        },
    )
    try:
        worker_id = wait_for_record(single_broker, "ready").worker_id
        (site_python,) = (tmp_path / "deployments/photos/environments").glob("*/bin/python")

        def run(*words: str) -> str:
            variables = {"RUNQY_SERVER_URL": web.url, "RUNQY_API_KEY": CLIENT_KEY, "GALLERY_DATA": str(data)}
            env = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "gallery.settings", **variables}
            done = subprocess.run(
                [str(site_python), *words], cwd=repository.folder, env=env, text=True, capture_output=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run("manage.py", "migrate")
        checked = run("manage.py", "runqy_check")
        seen = json.loads(run("-c", VISITOR, str(PHOTO)))
    finally:
        worker.end()

    assert all(line.startswith("ok  ") for line in checked.splitlines())  # commit and database are the site's
    error_class, traceback = seen.pop("error")
    page = seen.pop("page")
    assert seen.pop("django")[: len(django_version)] == django_version
    assert seen == {
        "statuses": ["SUCCESSFUL", "FAILED"],
        "result": {"width": 200, "height": 133},
        "thumbnail": [200, 133],
        "workers": [worker_id, worker_id],
    }
    assert error_class == "PIL.UnidentifiedImageError"
    assert traceback.startswith("Traceback")
    assert "gallery/tasks.py" in traceback
    assert "UnidentifiedImageError" in page
