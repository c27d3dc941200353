"""The pages. Templates are in `templates/`, scripts and styles in `static/`."""

from scanfleet.serve.pages.layout import NAVIGATION, render
from scanfleet.serve.pages.login import router as login

ROUTERS = (login,)

__all__ = ["NAVIGATION", "ROUTERS", "render"]
