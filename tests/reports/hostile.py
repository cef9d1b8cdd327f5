"""A report in which every free text is an attack on whoever renders it."""

from __future__ import annotations

import re
import types
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from privacy_gate.reports.document import Report

PAYLOAD = (
    "<script>alert(1)</script>\"><img src=x onerror=alert(2)>' onload=x "
    "</style></title></svg><svg/onload=alert(3)> javascript:alert(4) https://evil.example/x www.evil.example "
    "@everyone\n"
    "::set-output name=x::y\n##vso[task.setvariable]\n# heading\n- item\n| a | b |\n`code` ``` **bold** "
    "_it_ [l](http://e) "
    "![i](x) {{7*7}} {% raw %} ${7*7} <!-- c --> &lt; \x1b[31mred\x1b]0;title\x07 \x9b1m \u202edne \u200b \x00"
)


def hostile(report: Report) -> Report:
    """The report with the payload in every field that takes any text, keys of mappings too."""
    return _fill(report)


def _fill(part: Any) -> Any:
    filled = {
        name: _value(field.annotation, getattr(part, name))
        for name, field in type(part).model_fields.items()
        if name != "schema_version"
    }
    return part.model_copy(update=filled)


def _is_text(annotation: Any) -> bool:
    return annotation is str or (
        get_origin(annotation) in (types.UnionType,) and any(_is_text(a) for a in get_args(annotation))
    )


def _value(annotation: Any, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _fill(value)
    if isinstance(value, Enum) or get_origin(annotation) is Literal:
        return value
    if isinstance(value, str) or (value is None and _is_text(annotation)):
        return f"{PAYLOAD}{value}"  # what was different stays different
    if isinstance(value, tuple):
        inner = get_args(annotation)[0] if get_args(annotation) else Any
        return tuple(_value(inner, item) for item in value)
    if isinstance(value, dict):
        # Rates are keys that the gate itself writes; all other mappings come with keys of anybody's choice.
        keep = all(re.fullmatch(r"[01](\.\d+)?", key) for key in value)
        return {key if keep else f"{PAYLOAD}{key}": _value(Any, item) for key, item in value.items()}
    return value
