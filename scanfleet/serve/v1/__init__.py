"""The routes of the API."""

ROUTERS = ()
