"""`scanfleet serve`: the HTTP API, and the pages where people decide. One process, one engine, no model.

Interfaces inside the package:

- `context.Serving`: settings, engine, Celery application, waiter. An endpoint gets it as a parameter
  `serving: ServingDep`. Transactions are `reading(serving.engine)` and `transaction(serving.engine)`; endpoints that
  touch the ledger are plain `def`, which run in threads.
- `access.guard.requires(scope)`: the dependency that each route must have, or the application does not start
  (`access.guard.open_to_all` marks the few routes without). It gives an `Actor` (name, token_id, scopes, address):
  `actor: Annotated[Actor, Depends(requires("review"))]`, or the aliases `Reader`, `Scorer`, `Reviewer`, `Admin`. A
  request comes with `Authorization: Bearer`, or with a browser's session. Of a session, each unsafe method also needs
  the CSRF token: header `X-CSRF-Token` (base.html sets it for htmx) or the form field `csrf_token`.
- `actor.record(connection, action=..., subject=..., detail=...)`: the audit row, in the transaction of what it records.
- `pages.ROUTERS`: routers of HTML, entered there. On one of them a browser without session goes to /login, and errors
  are pages; elsewhere errors are `application/problem+json`. Paths below /v1/ are the API's.
- `pages.render(request, "name.html", status=200, **values)`: a template of `templates/`, autoescaped, with `actor`,
  `csrf_token` and `navigation` (`pages.NAVIGATION`: label, path, scope). base.html has the blocks title, head, main.
- `static/` is served below /static/. The content security policy allows scripts, styles, images and requests of this
  host alone: no inline script, no style attribute, no eval (`headers`). htmx must not add its indicator styles.
- `app.make_app(serving)`: the application, also for tests (`fastapi.testclient.TestClient`).
"""
