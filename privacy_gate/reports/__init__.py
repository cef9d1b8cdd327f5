"""Reports: one document, many renderings. One format per file; the folder is the list.

A format is a pure function `Report -> str`. `report.json` is written first and is the source of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from privacy_gate.catalog import Catalog
from privacy_gate.errors import StorageFailed
from privacy_gate.reports.document import Report
from privacy_gate.storage import private_dir, write_text

Render = Callable[[Report], str]


@dataclass(frozen=True, slots=True)
class ReportFormat:
    """A named rendering and the suffix of its file."""

    name: str
    suffix: str
    render: Render

    @property
    def filename(self) -> str:
        """What `write` calls the file."""
        return f"report{self.suffix}"


CATALOG: Catalog[ReportFormat] = Catalog("report format", __name__)


def report_format(name: str, *, suffix: str) -> Callable[[Render], Render]:
    """Enter a rendering into the catalog."""

    def register(render: Render) -> Render:
        CATALOG.add(name, ReportFormat(name, suffix, render))
        return render

    return register


def write(report: Report, folder: Path, formats: Iterable[str] = ()) -> dict[str, Path]:
    """Write report.json, then the other formats: whole files or none, for their owner alone; format -> path.

    Raises UsageError for an unknown format and StorageFailed when the folder cannot be written to.
    """
    others = [CATALOG[name] for name in dict.fromkeys(formats) if name != "json"]
    canonical = CATALOG["json"]
    private_dir(folder)
    # report.json is safe before any template gets a chance to break.
    write_text(folder / canonical.filename, canonical.render(report))
    for form in CATALOG:  # what an earlier run left here must not stand beside this verdict
        if form is not canonical:
            remove(folder / form.filename)
    for form in others:
        write_text(folder / form.filename, form.render(report))
    return {form.name: folder / form.filename for form in (canonical, *others)}


ATTESTATION = "attestation.json"  # what others sign about a report, beside it


def remove(path: Path) -> None:
    """Delete a file if it is there; raises StorageFailed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "choose another folder") from error
