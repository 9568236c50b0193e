"""The page of the settings in force."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from api.console.pages import Pages
from service.settings import Settings
from service.settings_view import settings_in_force


@dataclass(frozen=True, slots=True)
class SettingsPage:
    """Shows every setting of this process, and masks its secrets."""

    pages: Pages
    settings: Settings

    async def show(self, request: Request) -> Response:
        return self.pages.show(request, "settings.html", sections=settings_in_force(self.settings))
