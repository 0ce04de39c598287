"""Each item of the security requirements has a test that is named after it."""

import re
from pathlib import Path

HELD = {*range(1, 45)}
_NAME = re.compile(r"^(?:async )?def test_item_([0-9]{2})_\w+", re.MULTILINE)


def test_every_item_has_a_test_named_after_it() -> None:
    sources = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    tested = {int(number) for source in sources for number in _NAME.findall(source)}
    assert tested >= HELD, f"without a test: {sorted(HELD - tested)}"
