import gc
import os
from collections.abc import Generator

import pytest

from tests.optional_tools import mark_by_need


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not where tests are only distributed, because that takes 1.5 s."""
    if config.option.dist == "no" or config.option.collectonly:
        config.pluginmanager.import_plugin("tests.fixtures")


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_by_need(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Run the garbage collector only during tests, and only on what they make."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)  # full collections take 3 % of the time otherwise
        gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Two workers for each core, because tests often wait."""
    return 2 * (os.cpu_count() or 1)
