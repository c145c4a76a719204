"""A module of no app. To import it would fail the worker."""

raise SystemExit("a module was imported because a payload names it")
