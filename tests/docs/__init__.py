"""Pages that are generated from the code. `python -m tests.docs` writes them; `tests/docs/test_docs.py` compares them."""

from pathlib import Path

from tests.docs import commands, configuration, monitoring

ROOT = Path(__file__).parents[2]


def pages() -> dict[Path, str]:
    """Each generated file with its text."""
    return {
        ROOT / "docs/configuration.md": configuration.page(),
        ROOT / ".env.example": configuration.env_example(),
        ROOT / "docs/cli.md": commands.page(),
        ROOT / "docs/monitoring.md": monitoring.page(ROOT),
    }
