"""report.html: valid, inert, small, and the same in a browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from privacy_gate.reports import CATALOG, charts, figures, view
from privacy_gate.reports.document import Report
from privacy_gate.reports.html import render
from privacy_gate.reports.wording import VERDICTS
from tests.reports.hostile import hostile

VOID = {"meta", "link", "br"}
SHAPES = {"svg", "g", "path", "circle", "line", "polyline", "rect", "text", "desc"}
TAGS = (
    VOID
    | SHAPES
    | {
        "html",
        "head",
        "title",
        "style",
        "body",
        "header",
        "main",
        "nav",
        "footer",
        "section",
        "article",
        "figure",
        "figcaption",
        "a",
        "p",
        "h1",
        "h2",
        "h3",
        "b",
        "span",
        "code",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
    }
)


@dataclass
class Page(HTMLParser):
    """Tags, attributes and texts; complains about tags that are not closed in order."""

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute given twice: {tag} {attrs}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def text_of(self, tag: str) -> str:
        return "".join(text for where, text in self.texts if where == tag).strip()


def test_every_tag_is_expected_and_closed(report: Report) -> None:
    page = Page(render(report))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert page.open == []


def test_hostile_texts_are_inert(report: Report) -> None:
    """No text becomes a tag, an attribute or a second style."""
    plain, filled = Page(render(report)), Page(render(hostile(report)))
    assert {tag for tag, _ in filled.tags} <= TAGS
    assert filled.open == []
    allowed = {"href", "class", "id", "role", "scope", "colspan", "tabindex", "lang", "charset", "name", "content"}
    allowed |= {"rel", "http-equiv", "aria-label", "aria-labelledby", "aria-hidden", "rowspan"}
    for tag, attributes in filled.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert tag in SHAPES or set(attributes) <= allowed, (tag, attributes)
    links = [attributes.get("href") or "" for _, attributes in filled.tags if "href" in attributes]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert [tag for tag, _ in filled.tags].count("style") == [tag for tag, _ in plain.tags].count("style") == 1
    assert "49" not in filled.text_of("title")


def test_the_verdict_is_the_only_h1(report: Report) -> None:
    page = Page(render(report))
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert page.text_of("h1") == VERDICTS[report.verdict.status]


def test_headings_do_not_skip_a_level(report: Report) -> None:
    levels = [int(tag[1]) for tag, _ in Page(render(report)).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_links_and_labels_point_at_something(report: Report) -> None:
    tags = Page(render(report)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in tags:
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)


def test_charts_speak(samples: dict[str, Report]) -> None:
    """Each drawing has a name, or is hidden from those who cannot see it; essential shapes have colours without CSS."""
    tags = Page(render(samples["fail"])).tags
    drawings = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(drawings) > 20
    for attributes in drawings:
        named = attributes.get("aria-label") or attributes.get("aria-labelledby")
        assert attributes.get("aria-hidden") == "true" or (attributes.get("role") == "img" and named)
    for tag, attributes in tags:
        if tag in ("line", "polyline"):
            assert attributes.get("stroke")
        if tag in ("rect", "circle") and attributes.get("class"):
            assert attributes.get("fill")


def test_no_script_and_one_style_that_the_policy_names(report: Report) -> None:
    source = render(report)
    page = Page(source)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_small(samples: dict[str, Report]) -> None:
    assert max(len(render(report).encode()) for report in samples.values()) < 200_000


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_formula() -> None:
    """WCAG 2.2, the two extremes."""
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#777777", "#777777") == 1


def _palettes() -> list[dict[str, str]]:
    style = (Path(__file__).parents[2] / "templates" / "report" / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]


@pytest.mark.parametrize("palette", _palettes(), ids=["light", "dark"])
def test_contrast_of_texts_and_lines(palette: dict[str, str]) -> None:
    """WCAG 2.2 AA: 4.5 for texts, 3 for the lines of charts."""
    for ground in ("page", "sheet"):
        for ink in ("ink", "soft", "link", "pass", "fail", "open", "error"):
            assert _contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    for tone in ("pass", "fail", "open", "error"):
        assert _contrast(palette[tone], palette[f"{tone}-bg"]) >= 4.5, tone
        assert _contrast(palette["ink"], palette[f"{tone}-bg"]) >= 4.5, tone
    assert _contrast(palette["soft"], palette["faint"]) >= 4.5
    for line in ("s1", "s2", "s3", "s4", "s5", "edge"):
        assert _contrast(palette[line], palette["sheet"]) >= 3, line


def test_a_waiver_is_seen(samples: dict[str, Report]) -> None:
    page = Page(render(samples["fail"]))
    texts = [text for _, text in page.texts]
    assert "waived" in texts
    assert any("retraining with balanced classes is planned" in text for text in texts)
    assert "expired, without effect" in texts
    assert "PG203" not in [text for where, text in page.texts if where == "span"]  # no card any more


def test_exit_zero_is_said(samples: dict[str, Report]) -> None:
    report = samples["fail"]
    excused = report.model_copy(update={"verdict": report.verdict.model_copy(update={"exit_zero": True})})
    assert "--exit-zero" in render(excused)
    assert "--exit-zero" not in render(report)


# --- in a browser ---------------------------------------------------------------------------------------------------

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, list[str]]]:
    """Shows a page; returns its DOM and what the console said."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    folder = tmp_path_factory.mktemp("browser")

    def show(source: str) -> tuple[str, list[str]]:
        path = folder / "page.html"
        path.write_text(source, encoding="utf-8")
        command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return show


@pytest.mark.browser
@pytest.mark.parametrize("evil", [False, True], ids=["plain", "hostile"])
def test_in_a_browser(evil: bool, samples: dict[str, Report], load: Callable[[str], tuple[str, list[str]]]) -> None:
    """Chromium reports no violation of the policy, and the h1 is the verdict."""
    report = samples["fail"]
    dom, said = load(render(hostile(report) if evil else report))
    assert said == []
    heading = re.search(r"<h1>(.*?)</h1>", dom, re.DOTALL)
    assert heading is not None
    assert re.sub(r"<svg.*?</svg>|<[^>]+>", "", heading[1], flags=re.DOTALL).strip() == "Fail"
    assert "<script" not in dom
    assert "<img" not in dom


@pytest.mark.browser
def test_the_browser_would_tell(load: Callable[[str], tuple[str, list[str]]]) -> None:
    """A style that the policy does not name is reported: the test above can fail."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    _, said = load(f"{policy}<style>p{{color:red}}</style><p>x")
    assert len(said) == 1
    assert "Content Security Policy" in said[0]


def test_the_legend_of_the_curves_has_the_number_of_the_attack_table(samples):
    report = samples["fail"]
    chart = charts.roc(view.curves(report), view.worst(report))
    drawn = {curve.name for curve in chart.curves}
    table = {a.id: a.metrics.tpr_at_fpr["0.01"].value for a in view.worst(report) if a.id in drawn}
    assert [curve.legend for curve in chart.curves] == [table[curve.name] for curve in chart.curves]
    # The sample's curves say something else, as thinned curves do: read off, the numbers would differ.
    assert any(curve.legend != curve.at_rates[charts.TABLE_RATES.index(0.01)] for curve in chart.curves)
    assert figures.percent(max(table.values())) in chart.summary


def test_without_a_table_the_legend_is_read_off_the_curve(samples):
    bare = [a.model_copy(update={"metrics": None}) for a in view.curves(samples["fail"])]
    for curve in charts.roc(bare).curves:
        assert curve.legend == curve.at_rates[charts.TABLE_RATES.index(0.01)]


def test_no_text_of_strangers_begins_a_line(samples):
    report = samples["fail"]
    hostile = report.model_copy(
        update={"subject": report.subject.model_copy(update={"name": "x\n::error::pwned\r\n##vso[task]y"})}
    )
    lines = [line.lstrip() for line in CATALOG["html"].render(hostile).splitlines()]
    assert any("::error::pwned" in line for line in lines)
    assert not any(line.startswith(("::", "##")) for line in lines)
