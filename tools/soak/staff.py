"""A user with pages of the admin open: how long each takes, and whether the overview shows fresh numbers."""

import itertools
import re
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping

import httpx2

from tools.soak import processes
from tools.soak.stack import Stack
from tools.soak.threads import BackgroundThreads

LIVE = "/admin/overview/live/"
LIVE_S = 2.0
"""How often an open overview fetches its numbers."""
STALE_S = 4.0
"""A page must not show fewer archived tasks than there were this long before. Its numbers may be a second old."""
PAGES_BETWEEN = 3
"""The number of other pages that are fetched after each fetch of the overview."""
USER = "soak"
_ARCHIVED = re.compile(r"<dt>Archived</dt>\s*<dd><a[^>]*>([\d,]+)</a>")
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def make_session(stack: Stack) -> httpx2.Client:
    """Create a superuser; return a client that is logged in."""
    password = secrets.token_urlsafe(20)
    words = ("createsuperuser", "--noinput", "--username", USER, "--email", "soak@example.com")
    stack.manage(*words, DJANGO_SUPERUSER_PASSWORD=password)
    client = httpx2.Client(base_url=f"http://127.0.0.1:{stack.port}", timeout=30)
    form = client.get("/admin/login/")
    token = _TOKEN.search(form.text)
    if token is None:
        raise RuntimeError("the login page has no form")
    fields = {"username": USER, "password": password, "csrfmiddlewaretoken": token[1]}
    response = client.post("/admin/login/", data=fields, headers={"Referer": str(form.url)})
    if client.get(LIVE).status_code != 200:
        raise RuntimeError(f"the login failed: {response.status_code}")
    return client


class PageReader(BackgroundThreads):
    """A thread that fetches the overview's numbers as a browser does, and other pages in turn."""

    def __init__(
        self, session: httpx2.Client, pages: Mapping[str, Callable[[], str]], count_archived: Callable[[], int]
    ) -> None:
        super().__init__(patience_s=60)
        # How long each page took.
        self.times_s: dict[str, list[float]] = defaultdict(list)
        # Responses other than 200.
        self.problems: Counter[str] = Counter()
        # How often the overview showed numbers that were too old.
        self.stale = 0
        # The longest time between two fresh overviews.
        self.largest_gap_s = 0.0
        self._session = session
        self._pages = dict(pages)
        self._count_archived = count_archived
        self._known: deque[tuple[float, int]] = deque(maxlen=60)
        self.add_thread(self._read)

    def _read(self) -> None:
        others = itertools.cycle(self._pages)
        fresh_s = due_s = time.monotonic()
        while self.waits(due_s - time.monotonic()):
            due_s = max(due_s + LIVE_S, time.monotonic())
            self._known.append((time.monotonic(), self._count_archived()))
            if self._is_fresh(self.fetch("overview, live part", LIVE)):
                self.largest_gap_s = max(self.largest_gap_s, time.monotonic() - fresh_s)
                fresh_s = time.monotonic()
            for name in itertools.islice(others, PAGES_BETWEEN):
                self.fetch(name, self._pages[name]())

    def fetch(self, name: str, path: str) -> str:
        """Fetch a page and record how long it took. Return its text, empty if it failed."""
        began_s = time.monotonic()
        try:
            response = self._session.get(path)
        except httpx2.HTTPError as error:
            self.problems[f"{name}: {type(error).__name__}"] += 1
            return ""
        self.times_s[name].append(time.monotonic() - began_s)
        if response.status_code != 200:
            self.problems[f"{name}: {response.status_code}"] += 1
            return ""
        return response.text

    def _is_fresh(self, text: str) -> bool:
        found = _ARCHIVED.search(text)
        if found is None:
            return False
        earlier = [count for at_s, count in self._known if at_s < time.monotonic() - STALE_S]
        if earlier and int(found[1].replace(",", "")) < earlier[-1]:
            self.stale += 1
            return False
        return True

    def measure_cpu(self, stack: Stack, times: int) -> dict[str, float]:
        """Return the CPU time in s that the web processes spend on each page. Only right while they are idle
        otherwise.
        """
        found = {}
        for name, path in {"overview, live part": lambda: LIVE, **self._pages}.items():
            before_s = sum(map(processes.cpu_s, stack.web_processes()))
            for _ in range(times):
                self._session.get(path())
            found[name] = (sum(map(processes.cpu_s, stack.web_processes())) - before_s) / times
        return found
