"""What the browser tests share: one server with the built-in engine; skipped without Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chrome import chromium
from tests.serving import Serving

MISSING = "Chromium is missing: install it with `apt-get install chromium` (see README, Tests)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason=MISSING)
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)
            if chromium() is None:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def server() -> Iterator[Serving]:
    """The server as a newcomer starts it, on a free port."""
    with Serving() as serving:
        yield serving
