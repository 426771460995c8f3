"""What the browser tests share: one server with the built-in engine; skipped without Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving import Serving
from tests.waiting import PATIENCE_S

MISSING = "Chromium is missing: install it with `apt-get install chromium` (see README, Tests)"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Read nothing of this folder where no browser is wanted: its modules load a lot."""
    return True if "not browser" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if "tests/browser/" in item.path.as_posix()]
    if not ours:
        return
    from playwright.async_api import expect

    from tests.browser.chrome import chromium

    expect.set_options(timeout=PATIENCE_S * 1000)
    is_missing = chromium() is None
    for item in ours:
        item.add_marker(pytest.mark.browser)
        if is_missing:
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def server() -> Iterator[Serving]:
    """The server as a newcomer starts it, on a free port."""
    with Serving() as serving:
        yield serving
