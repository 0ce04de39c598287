"""Where the files beside the code are: `config/` and `prompts/`.

They lie inside the package in a wheel and beside it in a checkout or an editable install.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_ROOT = _PACKAGE if (_PACKAGE / "config").is_dir() else _PACKAGE.parent

CONFIG = _ROOT / "config"
PROMPTS = _ROOT / "prompts"
