"""One HTML page that needs nothing beside itself: styles, pictures and downloads are inside, scripts there are none."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from robustdet.analysis.report.content import WRITERS, Report
from robustdet.analysis.report.flags import Explanation, explanations, flag_of
from robustdet.analysis.report.scatter import scatter
from robustdet.analysis.table import Table

HERE = Path(__file__).parent
HEAVY, WIDEST = 300_000, 2400  # of an embedded picture: bytes, pixels
FORMATS = {"md": "Markdown", "tex": "LaTeX", "csv": "CSV"}


def render(report: Report, flags: str, title: str = "robustdet") -> str:
    """The page. ``flags`` is Markdown that explains flags; see `robustdet.analysis.report.flags`."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (embedded, downloads, text_uri, scatter, flag_of)
    environment.filters |= {function.__name__: function for function in filters}
    environment.filters["named"] = lambda attack: report.titles.get(attack, attack)
    explained = explanations(flags)
    environment.globals["report"] = report  # macros see it
    return environment.get_template("page.html.j2").render(
        title=title,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        explained=explained,
        explanation={block.name: block for block in explained if isinstance(block, Explanation)},
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
