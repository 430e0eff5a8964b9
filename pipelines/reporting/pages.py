"""The reports as pages: one HTML file each, which loads nothing and draws itself from the data it contains.

A page is a template with the style and the script that all pages share. Everything passes as one JSON block in which
``<``, ``>``, ``&`` and ``'`` are escaped, and the script puts text into the document as text, so nothing a dataset or a
model wrote can become markup or script.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.files import write_text
from pipelines.reporting.cards import templates
from pipelines.reporting.tracking import plain_numbers


def write_page(target: Path, template: str, data: Mapping[str, Any]) -> Path:
    """Write a page with its data, whole or not at all, and return its path; see :func:`render_page`."""
    write_text(target, render_page(template, data))
    return target


def render_page(template: str, data: Mapping[str, Any]) -> str:
    """A template of ``pipelines/``, for example ``reporting/report.html.jinja``, with ``data`` in its JSON block."""
    environment = templates(html=True)
    # ASCII only, which also keeps lone surrogates in a model's output from failing to encode.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": True, "allow_nan": False, "separators": (",", ":")}
    return environment.get_template(template).render(data=plain_numbers(data))
