"""A scene for each test of faults."""

from collections.abc import Iterator

import pytest

from tests.faults.scene import Scene, running


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A server and a service of the test's own."""
    with running(tmp_path_factory.mktemp("postgresql")) as scene:
        yield scene
