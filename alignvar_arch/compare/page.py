"""The report's page: one self-contained index.html with everything in it, made from a comparison's report.

What the page does is in page/: index.html (its skeleton), style.css and the files of its script. Here they are put
together with the report's data, so that nothing in a name can become markup or code and no request leaves the page.
"""

import base64
import hashlib
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from alignvar_arch.compare.tables import digits

PARTS = Path(__file__).with_name("page")
SCRIPTS = ("report.js", "plots.js", "images.js", "viewer.js", "controls.js")
"""In the order in which they make one script."""
EMBED_LIMIT = 32 * 2**20
"""Bytes of data URIs up to which the pictures lie inside the page; a browser still opens that at once."""
WEBP_SIDE = 16383
"""WebP's largest side, pixels."""


def write(folder: Path, report: dict, limit: int = EMBED_LIMIT) -> None:
    """Writes folder/index.html.

    Args:
        folder: a report's folder, with its pictures.
        report: what report.json holds.
        limit: bytes of pictures to embed at most; with more, the page shows the files in pictures/ instead.

    Raises:
        OSError: a picture cannot be read or the page not written.
    """
    pictures = _embedded(folder, report, limit)
    data = {
        "report": report,
        "digits": {metric["key"]: digits(metric) for metric in report["protocol"]["metrics"]},
        "pictures": pictures or {path: quote(os.fsencode(path)) for path in _paths(report)},
        "embedded": pictures is not None,
        "limit": limit,
    }
    style = _part("style.css")
    script = "\n".join(_part(name) for name in SCRIPTS)
    # Only this style and this script run, and only pictures are loaded: from the page itself, or from beside it.
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        f"img-src data:{'' if data['embedded'] else ' file: '} 'self'; base-uri 'none'; form-action 'none'"
    )
    # ASCII JSON without "<" can end no script element, and keeps file names that are no valid Unicode.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    parts = {"policy": policy, "style": style, "script": script, "data": text}
    html = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("index.html"))
    (folder / "index.html").write_text(html, encoding="utf-8")


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _paths(report: dict) -> list[str]:
    return [path for image in report["images"] for path in (image["gt"], image["lr"], *image["pictures"].values())]


def _embedded(folder: Path, report: dict, limit: int) -> dict[str, str] | None:
    """Data URIs of all pictures by path; None once they pass the limit."""
    uris, total = {}, 0
    for path in _paths(report):
        uris[path] = _data_uri(folder / path)
        total += len(uris[path])
        if total > limit:
            return None
    return uris


def _data_uri(path: Path) -> str:
    """The picture without loss, as WebP, which is about a quarter smaller than PNG."""
    with Image.open(path) as picture:
        if max(picture.size) > WEBP_SIDE:
            kind, content = "png", path.read_bytes()
        else:
            # More effort than method 2 costs several times the time for 2 % fewer bytes.
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", lossless=True, method=2, quality=50)
            kind, content = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
