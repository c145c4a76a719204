"""The entry point of `runqy-worker`, in a package of which no other distribution has the name."""

from runqy.core.environment.own_packages import require_own_packages


def main() -> None:
    require_own_packages()
    from workers.runtime.main import main as run_worker  # noqa: PLC0415 (another distribution's, until it is checked)

    run_worker()


if __name__ == "__main__":
    main()
