from pathlib import Path

import pytest

from tests.release.builds import Built, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The release of this checkout, built by `python -m release`."""
    return build(tmp_path_factory.mktemp("release"))


@pytest.fixture
def unpacked(built: Built, tmp_path: Path) -> Path:
    """The folder of the unpacked bundle."""
    built.unpack(built.bundle, tmp_path)
    return tmp_path
