"""Adapters: a package for each external service, and modules that they share."""

import sys

# structlog imports rich if it is installed, for tracebacks that no log of ours has: five megabytes in every process.
if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # an import of it fails, which structlog allows
    import structlog  # noqa: F401

    del sys.modules["rich"]
