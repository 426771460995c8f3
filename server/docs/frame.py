"""The words around the documentation, in the languages of the pages; its text is in English."""

from __future__ import annotations

from typing import Literal

import msgspec

Language = Literal["en", "zh"]


class PageFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Headings and navigation in one language."""

    tag: str
    other: Language
    switch: str
    """The link to the same page in the other language."""
    call: str
    contents: str
    version: str
    """With `{version}`."""
    client: str
    server: str
    objects: str
    from_client: str
    from_server: str
    in_messages: str
    codes: str
    endings: str
    example: str


FRAMES: dict[Language, PageFrame] = {
    "en": PageFrame(
        tag="en",
        other="zh",
        switch="中文",
        call="Call",
        contents="Contents",
        version="Version {version}; made from the server that you are looking at.",
        client="client",
        server="server",
        objects="objects",
        from_client="What the client sends",
        from_server="What the server sends",
        in_messages="Objects in the messages",
        codes="Codes",
        endings="Ends of sessions",
        example="Example",
    ),
    "zh": PageFrame(
        tag="zh-CN",
        other="en",
        switch="English",
        call="通话",
        contents="目录",
        version="版本 {version}，由您正在访问的服务器生成。正文为英文。",
        client="客户端",
        server="服务器",
        objects="对象",
        from_client="客户端发送的消息",
        from_server="服务器发送的消息",
        in_messages="消息中的对象",
        codes="代码",
        endings="会话的结束",
        example="示例",
    ),
}


def language_of(asked: str, accepted: str) -> Language:
    """The language of a page: `?lang=` first, else the first of `Accept-Language` that is here."""
    tags = [asked, *(tag.partition(";")[0] for tag in accepted.split(","))]
    for tag in tags:
        base = tag.strip().lower().partition("-")[0]
        if base == "zh":
            return "zh"
        if base == "en":
            return "en"
    return "en"
