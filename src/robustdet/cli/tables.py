"""`make tables`: writes the tables of README and docs/ again from the records in `results/`."""

from __future__ import annotations

import sys
from pathlib import Path

from robustdet.analysis.page_tables import rewritten
from robustdet.cli.building import suites_of, table_specs
from robustdet.errors import RobustdetError
from robustdet.files import write_text


def pages(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def main() -> None:
    root = Path()
    for page in pages(root):
        try:
            text = rewritten(page, root, table_specs(), suites_of)
        except RobustdetError as error:
            sys.exit(str(error))
        changed = text != page.read_text(encoding="utf-8")
        if changed:
            write_text(page, text)
        print(f"{page}: {'written' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
