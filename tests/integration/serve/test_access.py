"""Who may do what: scopes of every route, sessions, forged requests, and what is kept of a secret."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from scanfleet.db.access.tokens import list_tokens, revoke_token
from scanfleet.db.engine import reading, transaction
from scanfleet.db.tables.access import SCOPES, AccessAudit, ApiToken, WebSession
from scanfleet.serve.access.guard import FAILURES_PER_MINUTE
from scanfleet.serve.access.rates import Rate
from scanfleet.serve.access.routes import scopes_of
from scanfleet.serve.app import make_app
from tests.rigs.serve_rig import Served

OPEN = {("GET", path) for path in ("/", "/login", "/healthz", "/readyz")} | {("POST", "/login"), ("POST", "/logout")}


def _path(path: str) -> str:
    return path.replace("{scan_id}", "nothing").replace("{request_id}", "nothing")


def test_every_route_asks_for_its_scope(api: Served) -> None:
    routes = scopes_of(api.client.app)  # type: ignore[arg-type]
    assert {route for route, scope in routes.items() if scope is None} == OPEN
    headers = {scope: api.headers(scope, scope) for scope in SCOPES}
    wrong = []
    for (method, path), needed in routes.items():
        if needed is None:
            continue
        for scope in SCOPES:
            status = api.client.request(method, _path(path), headers=headers[scope]).status_code
            if (status == 403) != (scope != needed):
                wrong.append((method, path, scope, status))
        if api.client.request(method, _path(path)).status_code not in (401, 303):
            wrong.append((method, path, "nobody", 0))
    assert wrong == []
    assert len(routes) > 15


def test_an_application_with_a_route_without_a_scope_does_not_start(api: Served) -> None:
    app = make_app(api.serving)
    app.get("/v1/forgotten")(lambda: None)
    with pytest.raises(RuntimeError, match="/v1/forgotten"):
        scopes_of(app)


@pytest.mark.parametrize("how", ["revoked", "expired", "wrong"])
def test_a_token_that_ended_opens_nothing(api: Served, how: str) -> None:
    secret = api.token("ci", "read", lasts=timedelta(hours=1))
    headers = {"Authorization": f"Bearer {secret if how != 'wrong' else secret[:-1]}"}
    if how != "wrong":
        assert api.client.get("/v1/scans", headers=headers).status_code == 200
    with transaction(api.serving.engine) as connection:
        if how == "revoked":
            revoke_token(connection, "ci")
        if how == "expired":
            connection.execute(sa.update(ApiToken).values(expires_at=ApiToken.created_at))
    answer = api.client.get("/v1/scans", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "token-needed")


def test_the_ledger_holds_no_secret(api: Served) -> None:
    secret = api.token("ci", "read")
    session = _logged_in(api, secret)
    with reading(api.serving.engine) as connection:
        rows = [str(row) for table in (ApiToken, WebSession) for row in connection.execute(sa.select(table.__table__))]
        assert [token.name for token in list_tokens(connection)] == ["ci"]
    assert len(rows) == 2
    assert not any(secret in row or session in row for row in rows)


def _logged_in(api: Served, secret: str) -> str:
    answer = api.client.post("/login", data={"token": secret})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    return str(answer.cookies["scanfleet_session"])


def test_a_session_needs_the_token_of_its_pages_for_whatever_changes(api: Served) -> None:
    bulk = api.rig.scan_listed([])
    _logged_in(api, api.token("ann"))
    page = api.client.get("/", follow_redirects=True)
    csrf = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    answers = [
        api.client.post(f"/v1/scans/{bulk}/pause", headers=headers).status_code
        for headers in ({}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": csrf})
    ]
    assert answers == [403, 403, 200]
    assert api.client.post("/logout").status_code == 403
    assert api.client.post("/logout", data={"csrf_token": csrf}).status_code == 303
    assert api.client.get("/v1/scans").status_code == 401


def test_a_session_ends(api: Served) -> None:
    _logged_in(api, api.token("ann"))
    assert api.client.get("/v1/scans").status_code == 200
    with transaction(api.serving.engine) as connection:
        connection.execute(sa.update(WebSession).values(expires_at=WebSession.created_at))
    assert api.client.get("/v1/scans").status_code == 401


def test_a_cookie_is_secure_where_the_request_is(api: Served) -> None:
    secret = api.token("ann")
    plain = api.client.post("/login", data={"token": secret})
    safe = api.client.post("https://testserver/login", data={"token": secret})
    assert ["Secure" in each.headers["set-cookie"] for each in (plain, safe)] == [False, True]


@pytest.mark.parametrize("path", ["//evil.com", "https://evil.com", "/\\evil.com", "javascript:alert(1)"])
def test_logging_in_leads_to_no_other_host(api: Served, path: str) -> None:
    answer = api.client.post("/login", data={"token": api.token("ann"), "next": path})
    assert answer.headers["location"] == "/"


def test_wrong_tokens_are_slowed_down(api: Served) -> None:
    tries = [api.client.post("/login", data={"token": "sft_no"}).status_code for _ in range(12)]
    n = int(FAILURES_PER_MINUTE)
    assert tries[:n] == [401] * n
    assert tries[-1] == 429
    right = api.client.get("/v1/scans", headers=api.headers("ci", "read"))
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) >= 1


def test_a_rate_fills_evenly() -> None:
    now = 1000.0
    rate = Rate(60, clock=lambda: now)
    assert sum(rate.take("a") == 0 for _ in range(100)) == 60
    assert rate.take("a") == pytest.approx(1.0)
    assert rate.take("b") == 0
    now += 2
    assert [rate.take("a") == 0 for _ in range(3)] == [True, True, False]


def test_what_changes_is_recorded(api: Served) -> None:
    bulk = api.rig.scan_listed([])
    headers = api.headers("root", "score", "admin")
    api.client.post(f"/v1/scans/{bulk}/cancel", headers=headers)
    assert api.client.delete(f"/v1/scans/{bulk}", headers=headers).json()["deleted"] == [bulk]
    with reading(api.serving.engine) as connection:
        rows = connection.execute(sa.select(AccessAudit.who, AccessAudit.action, AccessAudit.subject)).all()
    assert [tuple(row) for row in rows] == [("root", "scan.cancel", bulk), ("root", "scan.delete", bulk)]


def test_every_answer_has_the_policy(api: Served) -> None:
    for path in ("/login", "/v1/scans", "/nowhere", "/static/base.css"):
        policy = api.client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_pages_have_no_inline_script_or_style(api: Served) -> None:
    pages = [api.client.get("/login").text]
    _logged_in(api, api.token("ann"))
    pages += [
        api.client.get("/", follow_redirects=True).text,
        api.client.get("/nowhere", headers={"Accept": "text/html"}).text,
    ]
    assert all("<html" in page for page in pages)
    assert not any(word in page for page in pages for word in ("<script>", " style=", "onclick", "javascript:"))


def test_ready_says_what_is_wrong(api: Served) -> None:
    assert api.client.get("/readyz").json()["status"] == "ready"
    with transaction(api.serving.engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0018'"))
    answer = api.client.get("/readyz")
    assert (answer.status_code, "db upgrade" in answer.json()["detail"]) == (503, True)
    assert api.client.get("/healthz").status_code == 200
