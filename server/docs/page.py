"""The documentation as one page of HTML: no script, anchors everywhere. Front."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from server.docs.codes import codes, endings
from server.docs.fields import fields_of, text_of
from server.docs.frame import FRAMES, Language, PageFrame
from server.docs.openapi import EXCHANGES, Exchange, Operation
from server.docs.protocols import EventDoc, ProtocolDoc

HEAD = """<!doctype html>
<html lang="{tag}">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
  <meta name="color-scheme" content="light dark">
  <title>omnicall: API</title>
  <link rel="icon" href="/static/favicon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/static/css/base.css">
  <link rel="stylesheet" href="/static/css/docs.css">
</head>
<body>
  <header class="top">
    <a class="brand" href="/">
      <img src="/static/favicon.svg" alt="" width="28" height="28"> omnicall</a>
    <h1>API</h1>
    <nav><a href="/call">{call}</a><a href="/docs/openapi.json">OpenAPI</a>
      <a href="/docs?lang={other}" hreflang="{other_tag}" lang="{other_tag}">{switch}</a></nav>
  </header>
  <main>
"""
FOOT = "  </main>\n</body>\n</html>\n"


def page(
    served: Iterable[Operation],
    protocols: Iterable[ProtocolDoc],
    version: str,
    language: Language = "en",
) -> str:
    """All of it."""
    known, frame = tuple(protocols), FRAMES[language]
    head = HEAD.format(
        tag=frame.tag,
        call=frame.call,
        other=frame.other,
        other_tag=FRAMES[frame.other].tag,
        switch=frame.switch,
    )
    parts = [head, _contents(known, version, frame), '<div lang="en">', _routes(served)]
    parts += [_protocol(protocol, frame) for protocol in known]
    parts += [_codes(frame), _endings(frame), "</div>\n", FOOT]
    return "".join(parts)


def _contents(protocols: tuple[ProtocolDoc, ...], version: str, frame: PageFrame) -> str:
    links = "".join(
        f'<li><a href="#{p.key}">{escape(p.title)}</a><ul>'
        f'<li><a href="#{p.key}-client">{frame.client}</a></li>'
        f'<li><a href="#{p.key}-server">{frame.server}</a></li>'
        f'<li><a href="#{p.key}-objects">{frame.objects}</a></li></ul></li>'
        for p in protocols
    )
    return (
        f'<nav class="contents" aria-label="{frame.contents}"><p class="faint">'
        f"{frame.version.format(version=escape(version))}</p><ul>"
        f'<li><a href="#http">HTTP</a></li>{links}'
        f'<li><a href="#codes">{frame.codes}</a></li>'
        f'<li><a href="#endings">{frame.endings}</a></li>'
        "</ul></nav>\n"
    )


# ------------------------------------------------------------------ HTTP


def _routes(served: Iterable[Operation]) -> str:
    rows = "".join(_route(operation) for operation in served)
    return (
        '<section id="http"><h2>HTTP</h2><p>Schemas are in <a href="/docs/openapi.json">'
        "/docs/openapi.json</a> (OpenAPI 3.1). Errors below /v1 and /whip are JSON: "
        "<code>error</code> with message, type, code and param. A key is given as "
        f"<code>Authorization: Bearer</code>.</p>{rows}</section>\n"
    )


def _route(operation: Operation) -> str:
    exchange = EXCHANGES.get((operation.method, operation.path), Exchange(needs_key=False))
    name = f"{operation.method} {operation.path}"
    facts = [f"answers {exchange.status}"]
    if exchange.takes:
        facts.insert(0, "takes " + ", ".join(exchange.takes))
    facts += [f"?{name}=: {text}" for name, text in exchange.query.items()]
    if not exchange.needs_key:
        facts.append("no key needed")
    return (
        f'<article id="{_anchor("http", name)}"><h3><a href="#{_anchor("http", name)}">'
        f"<code><b>{operation.method}</b> {escape(operation.path)}</code></a></h3>"
        f"{_paragraphs(operation.text)}<p class='faint'>{escape('; '.join(facts))}</p></article>"
    )


# ------------------------------------------------------------------ protocols


def _protocol(protocol: ProtocolDoc, frame: PageFrame) -> str:
    links = {struct.__name__: f"{protocol.key}-{struct.__name__}" for struct in protocol.objects}
    sides = "".join(
        f'<h3 id="{protocol.key}-{side}" lang="{frame.tag}">{title}</h3>'
        + "".join(_event(event, f"{protocol.key}-{side}", links, frame) for event in events)
        for side, title, events in (
            ("client", frame.from_client, protocol.client),
            ("server", frame.from_server, protocol.server),
        )
    )
    objects = "".join(
        f'<article id="{links[struct.__name__]}"><h4><a href="#{links[struct.__name__]}">'
        f"<code>{struct.__name__}</code></a></h4>{_paragraphs(text_of(struct))}"
        f"{_members(struct, links)}</article>"
        for struct in protocol.objects
    )
    return (
        f'<section id="{protocol.key}"><h2>{escape(protocol.title)}</h2>'
        f"<p>{escape(protocol.text)}</p>{sides}"
        f'<h3 id="{protocol.key}-objects" lang="{frame.tag}">{frame.in_messages}</h3>'
        f"{objects}</section>\n"
    )


def _event(event: EventDoc, prefix: str, links: dict[str, str], frame: PageFrame) -> str:
    anchor = _anchor(prefix, event.name)
    mark = ' <span class="mark">extension</span>' if event.is_extension else ""
    return (
        f'<article id="{anchor}"><h4><a href="#{anchor}"><code>{escape(event.name)}</code></a>'
        f"{mark}</h4>{_paragraphs(event.text)}{_members(event.struct, links)}"
        f"<details><summary>{frame.example}</summary>"
        f"<pre tabindex='0'>{_pretty(event.example)}</pre></details></article>"
    )


def _members(struct: type[Any], links: dict[str, str]) -> str:
    rows = []
    for field in fields_of(struct):
        marks = ["required"] if field.is_required else []
        if field.default not in ("", "null"):
            marks.append(f"default {field.default}" if len(field.default) < 60 else "has a default")
        notes = "; ".join([*marks, *([field.bounds] if field.bounds else [])])
        text = f"<p>{escape(field.text)}</p>" if field.text else ""
        faint = f'<p class="faint">{escape(notes)}</p>' if notes else ""
        rows.append(
            f"<div><dt><code>{escape(field.name)}</code> <span>{_linked(field.type, links)}</span>"
            f"</dt><dd>{text}{faint}</dd></div>"
        )
    return f"<dl>{''.join(rows)}</dl>" if rows else ""


# ------------------------------------------------------------------ codes


def _codes(frame: PageFrame) -> str:
    rows = "".join(
        f'<div id="code-{told.code}-{told.kind}"><dt><code>{told.code}</code> '
        f"<span>{told.kind}</span></dt><dd><p>{escape(told.text)}</p></dd></div>"
        for told in codes()
    )
    return (
        f'<section id="codes"><h2 lang="{frame.tag}">{frame.codes}</h2>'
        "<p>Of errors over HTTP and in <code>error</code>, of "
        "warnings in <code>session.warning</code> and <code>info</code>, each with words that it "
        f"is told with.</p><dl class='codes'>{rows}</dl></section>\n"
    )


def _endings(frame: PageFrame) -> str:
    rows = "".join(
        f"<div><dt><code>{end.code}</code>{' <span>failure</span>' if end.is_failure else ''}</dt>"
        f"<dd><p>{escape(end.text)}</p></dd></div>"
        for end in endings()
    )
    return (
        f'<section id="endings"><h2 lang="{frame.tag}">{frame.endings}</h2><p>The reasons of '
        "<code>session.ended</code>, and for five minutes the codes of 410 at the call's "
        "address.</p>"
        f"<dl class='codes'>{rows}</dl></section>\n"
    )


# ------------------------------------------------------------------ text


def _anchor(prefix: str, name: str) -> str:
    return f"{prefix}-{re.sub('[^a-z0-9_.]+', '-', name.lower()).strip('-')}"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_code(' '.join(part.split()))}</p>" for part in text.split("\n\n") if part)


def _code(text: str) -> str:
    """Text with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _linked(text: str, links: dict[str, str]) -> str:
    def link(match: re.Match[str]) -> str:
        name = match[0]
        return f'<a href="#{links[name]}">{name}</a>' if name in links else name

    return re.sub(r"\b[A-Z]\w+\b", link, escape(text))


def _pretty(example: dict[str, Any]) -> str:
    return escape(json.dumps(example, indent=2, ensure_ascii=False), quote=False)
