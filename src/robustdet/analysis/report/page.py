"""One HTML page that needs nothing beside itself: styles, pictures and downloads are inside, scripts there are none."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from robustdet.analysis.report.content import WRITERS, Report
from robustdet.analysis.report.scatter import scatter
from robustdet.analysis.table import Table

HERE = Path(__file__).parent
HEAVY, WIDEST = 300_000, 2400  # of an embedded picture: bytes, pixels
FORMATS = {"md": "Markdown", "tex": "LaTeX", "csv": "CSV"}


def render(report: Report, flags: str, title: str = "robustdet") -> str:
    """The page. ``flags`` is Markdown that explains each flag below a heading with the flag's name."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (embedded, downloads, text_uri, scatter, flagged)
    environment.filters |= {function.__name__: function for function in filters}
    sections = flag_sections(flags)
    return environment.get_template("page.html.j2").render(
        report=report,
        title=title,
        style=Markup((HERE / "style.css").read_text()),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        explained=sections,
        unexplained=[name for name in report.raised if name not in sections],
    )


def embedded(file: Path) -> str:
    """A PNG as a data URI; one above ``HEAVY`` bytes as WebP, at most ``WIDEST`` pixels wide."""
    if file.stat().st_size <= HEAVY:
        return data_uri("image/png", file.read_bytes())
    with Image.open(file) as picture:
        picture.thumbnail((WIDEST, 10 * WIDEST))
        written = io.BytesIO()
        picture.convert("RGB").save(written, "WEBP", quality=85)
    return data_uri("image/webp", written.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def downloads(table: Table) -> Mapping[str, tuple[str, str]]:
    """A link for each format of a table: its name, and file ending and content."""
    return {FORMATS[kind]: (kind, text_uri(write(table))) for kind, write in WRITERS.items()}


def text_uri(text: str) -> str:
    return f"data:text/plain;charset=utf-8,{quote(text)}"


def flagged(text: str) -> tuple[str, str]:
    """A footnote's flag and the rest of its text; ("", text) where it is no flag."""
    name, colon, rest = text.partition(":")
    return (name, colon + rest) if colon and re.fullmatch(r"[a-z0-9_]+", name) else ("", text)


def flag_sections(markdown: str) -> dict[str, Markup]:
    """The HTML below each heading of ``markdown`` that is one word, by that word."""
    parts = re.split(r"^#+ +(.*)$", markdown, flags=re.MULTILINE)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    headings = [heading.strip().strip("`") for heading in parts[1::2]]
    return {
        heading: Markup(parser.render(body))
        for heading, body in zip(headings, parts[2::2], strict=True)
        if re.fullmatch(r"[a-z0-9_]+", heading)
    }
