"""The pages. Templates are in `templates/`, scripts and styles in `static/`."""

from scanfleet.serve.pages.layout import NAVIGATION, render
from scanfleet.serve.pages.login import router as login
from scanfleet.serve.pages.review.actions import router as review_actions
from scanfleet.serve.pages.review.pages import router as review

ROUTERS = (login, review, review_actions)

__all__ = ["NAVIGATION", "ROUTERS", "render"]
