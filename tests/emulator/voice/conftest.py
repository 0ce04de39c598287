from collections.abc import Generator

import pytest

from .phone import Application, Phone, serving, switched_on


@pytest.fixture
def application() -> Generator[Application]:
    """An application that serves the instructions of calls."""
    with serving() as application:
        yield application


@pytest.fixture
def phone(application: Application) -> Generator[Phone]:
    """An emulator with a stopped clock, whose calls follow the application."""
    with switched_on(application) as phone:
        yield phone
