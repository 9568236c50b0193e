"""Secrets in the settings: a text, or the environment variable or file that holds it."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, model_validator

_FORMS = 'must be a text, {"env": "NAME"} or {"file": "PATH"}'


class Secret(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """A text, `{"env": "NAME"}` or `{"file": "/run/secrets/name"}`. Only the process that needs a secret reads its source."""

    text: SecretStr | None = None
    """The secret itself; a plain text in place of the object is the same."""
    env: str | None = None
    """The environment variable that holds the secret."""
    file: Path | None = None
    """The file that holds the secret. Line breaks at its end are ignored."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"text": value}
        if not isinstance(value, dict):
            raise ValueError(_FORMS)
        return value

    @model_validator(mode="after")
    def _check(self) -> "Secret":
        if [self.text, self.env, self.file].count(None) != 2:
            raise ValueError(_FORMS)
        if self.text is not None:
            _require_one_line(self.text.get_secret_value())
        return self

    def read(self) -> str:
        """The secret. Raises ValueError, without the secret, if it is missing or cannot be a header's value."""
        if self.text is not None:
            return self.text.get_secret_value()
        if self.file is not None:
            try:
                value = self.file.read_text("utf-8").rstrip("\r\n")
            except OSError as error:
                raise ValueError(f"{self.file} cannot be read: {error.strerror}") from error
            except UnicodeDecodeError:
                raise ValueError(f"{self.file} is not UTF-8") from None
        elif (found := os.environ.get(self.env or "")) is not None:
            value = found
        else:
            raise ValueError(f"the environment variable {self.env} is not set (.env is not read for it)")
        _require_one_line(value)
        return value


def _require_one_line(value: str) -> None:
    if not value or not value.isprintable():
        raise ValueError("must be one line of printable text")
