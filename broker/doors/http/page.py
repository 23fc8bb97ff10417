"""Writes the OpenAPI document as a page for people. It has no script, and loads nothing."""

from html import escape
from itertools import groupby

import msgspec

from broker.doors.http.openapi import each, plain_path
from broker.doors.http.routes import ROUTES, Route

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
}
_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 54rem; padding: 2rem 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
code, pre { font: .9em ui-monospace, monospace; }
details { border-top: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
summary b { display: inline-block; min-width: 4.5rem; } summary code { font-weight: 600; }
summary span { opacity: .8; }
pre { border: 1px solid var(--line); border-radius: .3rem; overflow-x: auto; padding: .6rem; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
"""


def page(version: str, url: str) -> str:
    """Return the page; `url` is where the API is reached."""
    groups = "".join(
        f"<h2>{escape(group)}</h2>{''.join(_route(route, url) for route in routes)}"
        for group, routes in groupby(ROUTES, key=lambda route: route.group)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>infermq</title><style>{_STYLE}</style></head><body>
<h1>infermq {escape(version)}</h1>
<p>OpenAI's clients need another base URL and key only: <code>base_url="{escape(url)}/v1"</code>.
For programs: <a href="/openapi.json">openapi.json</a>.</p>
{groups}</body></html>
"""


def _route(route: Route, url: str) -> str:
    rows = [(one.name, one.says) for one in route.query]
    if len(stands_for := each(route)) > 1:
        rows = [(one.path, one.says) for one in stands_for]
    query = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{escape(says)}</td></tr>" for name, says in rows)
    return (
        f"<details><summary><b>{route.method}</b> <code>{escape(plain_path(route))}</code> <span>{escape(route.says)}</span>"
        f"</summary>{f'<table>{query}</table>' if query else ''}<pre>{escape(_command(route, url))}</pre></details>"
    )


def _command(route: Route, url: str) -> str:
    """Write a command that calls the route."""
    words = [f"curl {url}{plain_path(route)}"]
    if not route.open:
        words.append('-H "Authorization: Bearer $INFERMQ_API_KEY"')
    if route.method != "GET" and not (route.method == "POST" and route.sends):
        words.append(f"-X {route.method}")
    if route.sends == "multipart/form-data":
        words.append("-F purpose=batch -F file=@requests.jsonl")
    elif route.example is not None:
        body = msgspec.json.encode(msgspec.json.decode(route.example)).decode()
        words += ["-H 'Content-Type: application/json'", f"-d '{body}'"]
    elif route.sends is not None:
        words.append("--data-binary @jobs.json")
    return " \\\n  ".join(words)
