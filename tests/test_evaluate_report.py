"""How a report is shown: one page that loads and runs nothing, Markdown, a screen of terminal; and the command itself."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from moderation.schema import LABELS, Article, Comment, UserError
from training import report as shown
from training.examine import Contender, Questions, as_json, examine
from training.labelled import Labelled

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> {{ 7*7 }} ]]> | `x` \u202egnp.exe\x1b[31m\n<style>body{display:none}</style>"


def rows(count=60, hostile=True):
    """Labelled rows in which every text, title, name and slice is an attack on the page."""
    comments, columns = [], []
    for number in range(count):
        article = Article(f"a{number % 12}", f"Title {number % 12} {HOSTILE if hostile else ''}", "Some text.")
        comments.append(
            Comment(
                f"{HOSTILE if hostile else 'A comment about it'} {number}",
                comment_id=f"<b>{number}</b>",
                article=article,
                parent_text=HOSTILE if number % 2 else "",
            )
        )
        columns.append({"desk": HOSTILE if number % 2 else "news", "second": LABELS[number % 4]})
    truth = [LABELS[number % 4] for number in range(count)]
    return Labelled(columns, comments, truth, [-1] * count, [comment.article.article_id for comment in comments])


def guess(comments):
    """Half right: probabilities that depend on the text alone."""
    numbers = [int(comment.text.rsplit(" ", 1)[-1]) if comment.text.rsplit(" ", 1)[-1].isdigit() else 0 for comment in comments]
    return np.array([0.1 + 0.6 * np.eye(4)[(number + (number % 3 == 0)) % 4] for number in numbers])


@pytest.fixture(scope="module")
def report():
    contenders = [
        Contender(f"first {HOSTILE}", guess),
        Contender("second", lambda comments: np.full((len(comments), 4), 0.25), note=HOSTILE),
    ]
    return as_json(examine(rows(), contenders, Questions(draws=60, second_label="second")))


@pytest.fixture(scope="module")
def binary():
    data = rows()
    data.positive, data.truth = [number % 2 for number in range(60)], [""] * 60
    return as_json(
        examine(data, [Contender("one", guess), Contender("two", guess)], Questions(draws=60, positive_label="off-topic"))
    )


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes


@pytest.mark.parametrize("kind", ["report", "binary"])
def test_no_text_of_a_stranger_becomes_markup(kind, request):
    page = Page()
    page.feed(shown.to_html(request.getfixturevalue(kind)))
    assert not {"script", "img", "iframe", "link", "object", "form", "b"} - {"b"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "action")]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")


def test_the_page_needs_no_network(report):
    text = shown.to_html(report)
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_what_hides_in_a_text_is_made_visible(report):
    text = shown.to_html(report)
    assert "\u202e" not in text and "\x1b" not in text


def test_the_markdown_keeps_its_tables_whole(report):
    text = shown.to_markdown(report)
    assert "<script" not in text and "\x1b" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


@pytest.mark.parametrize("kind", ["report", "binary"])
def test_the_terminal_summary_fits_a_screen_and_steers_no_terminal(kind, request):
    stream = io.StringIO()
    shown.to_terminal(request.getfixturevalue(kind), Console(file=stream, width=100), "report")
    text = stream.getvalue()
    assert len(text.splitlines()) <= 50
    assert "\x1b" not in text and "\u202e" not in text


def test_every_file_is_written_and_none_is_half(report, tmp_path):
    written = shown.write(report, tmp_path / "out")
    assert {path.name for path in written} == {
        "report.json",
        "report.html",
        "report.md",
        "thresholds.json",
        "scores.csv",
        "errors.jsonl",
        "label-issues.jsonl",
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["schema_version"] == 1


def test_the_scores_hold_every_row_and_no_text(report, tmp_path):
    shown.write(report, tmp_path)
    version, truth, probabilities = shown.read_scores(tmp_path / "scores.csv")
    assert version == report["model"] and len(truth) == report["n"] == len(probabilities)
    assert np.abs(probabilities.sum(1) - 1).max() < 0.001
    assert "A comment about it" not in (tmp_path / "scores.csv").read_text()
    assert "scores" not in json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "wrong.csv").write_text("label,x\nspam,1\n")
    for name in ("none.csv", "wrong.csv", "report.html"):
        with pytest.raises(UserError, match=name):
            shown.read_scores(tmp_path / name)


def test_the_shipped_model_has_its_own_scores_beside_it():
    from moderation.model import DEFAULT_MODEL, read_manifest

    version, truth, _ = shown.read_scores(DEFAULT_MODEL / "scores.csv")
    remedy = "run: moderation evaluate data/threads/test.jsonl --no-probe --out R && cp R/scores.csv moderation/weights/"
    assert version == read_manifest(DEFAULT_MODEL)["version"], remedy
    assert len(truth) > 1000


def test_the_thresholds_are_a_threshold_file_for_scoring(report, tmp_path):
    from moderation.policy import Policy

    shown.write(report, tmp_path)
    policy = Policy.load(tmp_path / "thresholds.json")
    assert policy.review == pytest.approx(report["moderation"]["budget"]["thresholds"])
    assert policy.approve == 0


def test_scoring_with_the_thresholds_queues_what_the_report_said(report, tmp_path):
    from moderation.policy import Policy

    shown.write(report, tmp_path)
    policy = Policy.load(tmp_path / "thresholds.json")
    actions = [policy.action(dict(zip(LABELS, row, strict=True))) for row in guess(rows().comments)]
    assert 1000 * actions.count("review") / len(actions) == pytest.approx(report["moderation"]["budget"]["queue_per_1000"])


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        shown.write(report, tmp_path / "file")


@pytest.mark.parametrize("kind", ["report", "binary"])
def test_every_entry_of_the_report_is_documented(kind, request):
    document = (Path(__file__).parent.parent / "docs" / "REPORT.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`([^`]+)`", document))

    def names(value):
        if isinstance(value, dict):
            for key, entry in value.items():
                if not re.search(r"[ .:<>]", key) and key not in LABELS:
                    yield key
                yield from names(entry)
        elif isinstance(value, list):
            for entry in value:
                yield from names(entry)

    groups = {"nationality", "ethnicity", "religion", "names", "gender", "top", "1", "0", "typos", "leetspeak", "emoji"}
    from training.fairness import GROUPS

    groups |= {name for category in GROUPS.values() for name in category}
    missing = sorted(set(names(request.getfixturevalue(kind))) - described - groups)
    assert not missing


# --- in a real browser


@pytest.mark.parametrize("kind", ["report", "binary"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_opens_without_harm_and_without_scrolling_sideways(browser, request, tmp_path, kind, scheme, width):
    path = tmp_path / "report.html"
    path.write_text(shown.to_html(request.getfixturevalue(kind)), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    loaded, messages = [], []
    page.on("request", lambda one: loaded.append(one.url))
    page.on("console", lambda one: messages.append(one.text))
    page.on("dialog", lambda one: messages.append("dialog"))
    page.goto(path.as_uri())
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.title().startswith(("first", "one"))
    assert loaded == [path.as_uri()]
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark == (scheme == "dark")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, report, tmp_path, scheme):
    path = tmp_path / "report.html"
    path.write_text(shown.to_html(report), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme)
    page.goto(path.as_uri())
    colours = page.evaluate(
        """() => { const style = getComputedStyle(document.documentElement);
        return Object.fromEntries(['--page', '--card', '--ink', '--soft', '--accent', '--good', '--bad'].map(name => [name, style.getPropertyValue(name).trim()])); }"""
    )
    page.close()

    def luminance(colour):
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for text in ("--ink", "--soft", "--accent", "--good", "--bad"):
        for ground in ("--page", "--card"):
            high, low = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# --- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory with a tiny random encoder: real in every part, and quick."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    from moderation.model import DEFAULT_ENCODER, find_encoder
    from moderation.network import Head
    from moderation.policy import DEFAULT
    from moderation.text import ENCODING, SURFACE

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(find_encoder(DEFAULT_ENCODER))
    encoder = BertModel(
        BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    settings = {"vocabulary": len(tokenizer), "hidden": 8, "dropout": 0.0}
    save_file(Head(16, len(SURFACE), **settings).state_dict(), folder / "head.safetensors")
    manifest = {
        "version": "tiny", "encoder": str(folder / "encoder"), "encoding": ENCODING, "labels": list(LABELS), "languages": ["en"], "head": settings,
        "calibration": {"scale": [1.0] * 4, "bias": [0.0] * 4}, "thresholds": DEFAULT.to_table(), "files": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        {
            "comment_id": str(number),
            "comment_text": f"remark number {number} on the bridge",
            "article_title": f"Bridge {number % 9}",
            "label": LABELS[number % 4],
            "positive": number % 2,
        }
        for number in range(45)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_command_evaluates_compares_and_writes_a_report(command, model, table, tmp_path):
    result = command(
        "evaluate",
        table,
        "--model",
        model,
        "--yardstick",
        "tfidf",
        "--yardstick",
        "majority",
        "--budget",
        "200/5000",
        "--auto-precision",
        "0.9",
        "--draws",
        "50",
        "--out",
        "report",
    )
    assert result.returncode == 0, result.stderr.decode()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["model"] == "tiny" and [one["model"] for one in report["others"]] == ["tfidf", "majority"]
    assert report["errors"][0]["reason"]
    assert "tiny on 45 comments" in result.stdout.decode()
    assert {"few-rows", "few-threads", "leakage-unknown"} == {one["code"] for one in report["warnings"]}


def test_the_command_answers_a_yes_no_question(command, model, table, tmp_path):
    result = command("evaluate", table, "--model", model, "--positive-label", "off-topic", "--draws", "50", "--out", "report")
    assert result.returncode == 0, result.stderr.decode()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["kind"] == "binary"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "lots"], "--budget 'lots'"),
        (["--slice", "nope"], "--slice nope: no such column"),
        (["--second-label", "nope"], "--second-label nope: no such column"),
        (["--yardstick", "nope"], "--yardstick 'nope'"),
        (["--positive-label", "nope"], "--positive-label 'nope'"),
        (["--label", "nope"], "no column 'nope'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(command, model, table, arguments, said):
    result = command("evaluate", table, "--model", model, "--no-probe", "--draws", "0", *arguments)
    assert result.returncode == 2
    assert said in result.stderr.decode() and "Traceback" not in result.stderr.decode()
