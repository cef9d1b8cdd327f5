"""Text from strangers: what a registry or a model wrote must not steer a terminal, a log or a page."""

from __future__ import annotations

import os
import re
import unicodedata

# Whole escape sequences first: what is left of "\x1b]0;title\x07" without its ESC would still be shown as text.
_ESCAPES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: titles, links, clipboard
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]"
)


def clean(text: object, limit: int | None = None) -> str:
    """`text` on one line, without escape sequences, control, format (bidi) and surrogate characters."""
    plain = _ESCAPES.sub("", str(text))
    plain = "".join(" " if c in "\t\n\r\x0b\x0c\x85\u2028\u2029" else c for c in plain)
    plain = "".join(c for c in plain if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co"})
    if limit is not None and len(plain) > limit:
        return plain[: limit - 1] + "…"
    return plain


def where(error: BaseException) -> str:
    """Function, file and line that raised: no folder, which tells of people, and none of the error's own words."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    module = trace.tb_frame.f_globals.get("__name__", "")
    return f"{module}.{code.co_qualname} ({os.path.basename(code.co_filename)}:{trace.tb_lineno})"
