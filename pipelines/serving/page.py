"""The page for people: one file, which loads nothing and may reach no server but this one."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse


def page() -> HTMLResponse:
    """The page, with a policy under which no script runs but its own, whatever stands in a text."""
    text, policy = _read()
    return HTMLResponse(text, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


@cache
def _read() -> tuple[str, str]:
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    own = {tag: _hash_of(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("script", "style")}
    policy = {
        "default-src": "'none'",
        "script-src": own["script"],
        "style-src": own["style"],
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{name} {value}" for name, value in policy.items())


def _hash_of(inline: list[str]) -> str:
    """The one inline element that may be used, as a content security policy names it."""
    (content,) = inline
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
