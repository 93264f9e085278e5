"""The report of a run: complete, self-contained, well-formed, and honest about what the run does not have.

Run: pytest tests/evaluation/test_report.py
"""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unimodel.config import RunConfig
from unimodel.config_file import validate
from unimodel.evaluation.finished import is_reported
from unimodel.evaluation.report import write_report
from unimodel.evaluation.report_plots import moving_average
from unimodel.evaluation.report_samples import picture
from unimodel.evaluation.table import Row
from unimodel.run_folder import RunFolder, write_json

VOID = {"meta", "link", "img", "br", "hr", "input"}
ROWS = [
    Row("image tokenizer PSNR", "tokenizer", 38.125, 23.9, "patch means", 241, "dB", required=30.0),
    Row("masked <text> accuracy", "masked", 0.621, 0.148, "most frequent token", 845),
    Row(
        "image bits per token given its caption",
        "unified",
        4.43,
        4.39,
        "shuffled captions",
        20,
        "bits",
        higher_is_better=False,
    ),
]


class Page(HTMLParser):
    """Checks that elements nest; keeps table rows, headings, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "tr" in self.open:
            self.rows[-1] += data + " "


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two stages, the first finished and the second at a third, evaluated, with neither data nor checkpoints."""
    folder = RunFolder(tmp_path / "runs" / "small")
    folder.store_config(_config(tmp_path))
    lines = [_metrics(step) for step in range(1, 41)]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing = [
        {"step": step, "seconds": 1.5, "loading_seconds": 0.0, "tokens_per_second": 1000.0 + step}
        for step in range(1, 41)
    ]
    folder.timing.write_text("".join(json.dumps(line) + "\n" for line in timing))
    write_json(folder.evaluation, {"state": {"stages": {"masked": 30}}, "rows": [row.to_dict() for row in ROWS]})
    return folder


def _config(folder: Path) -> RunConfig:
    objective = {"masked": {"kind": "masked"}}
    return validate(
        {
            "name": "small",
            "runs_folder": str(folder / "runs"),
            "data": {"folder": str(folder / "absent")},
            "stages": {
                "masked": {
                    "number": 1,
                    "steps": 30,
                    "mixture": [{"sequence": "clip", "objective": "masked"}],
                    "objectives": objective,
                },
                "unified": {
                    "number": 2,
                    "steps": 30,
                    "mixture": [{"sequence": "text_to_image", "objective": "masked"}],
                    "objectives": objective,
                },
            },
        },
        "test",
    )


def _metrics(step: int) -> dict[str, object]:
    return {
        "step": step,
        "stage": "masked" if step <= 30 else "unified",
        "loss": 5.0 / step,
        "loss/masked": 5.0 / step,
        "accuracy/text": step / 50,
        "accuracy/image": step / 45,
        "learning_rate": 1e-3,
        "gradient_norm": None,
        "tokens": 100,
    }


def test_page_is_well_formed_and_has_every_figure(run: RunFolder) -> None:
    assert write_report(run.path) == run.report
    page = Page(run.report.read_text(encoding="utf-8"))
    assert page.open == []
    assert "2 of 3 figures beat their baseline" in page.text
    for row, cells in {
        ROWS[0]: ("38.12 dB", "23.90 dB", "patch means", "at least 30 dB required", "yes", "241"),
        ROWS[1]: ("62.1%", "14.8%", "most frequent token", "yes", "845"),
        ROWS[2]: ("lower is better", "4.43 bits", "4.39 bits", "shuffled captions", "no", "20"),
    }.items():
        found = [text for text in page.rows if row.metric in text]
        assert len(found) == 1 and row.stage in found[0]
        assert all(cell in found[0] for cell in cells), (row.metric, found)


def _line(name: str, values: list[float | None]) -> dict[str, object]:
    return {"name": name, "values": values, "low": values, "high": values}


@pytest.fixture
def with_details(run: RunFolder) -> RunFolder:
    """The same run with all that an evaluation of a live world adds."""
    details = [
        Row("bits per frame", "unified", 0.61, 9.91, "copying; PNG 3,296", 100, "bits", higher_is_better=False),
        Row("reward error, real frames", "unified", 0.22, 0.21, "best constant", 9, higher_is_better=False),
        Row("drift of PSNR per frame, dB", "unified", -0.84, None, "copying: -0.28", 60, interval=(-1.1, -0.6)),
    ]
    curve = {
        "title": "PSNR",
        "unit": "dB",
        "steps": [1, 2, 3],
        "samples": [9, 9, 4],
        "lines": [_line("model", [37.6, 35.0, None]), _line("copy", [30.0, 28.0, 27.0]), _line("ceiling", [41.0] * 3)],
    }
    group = {"classes": 3, "states": 6, "accuracy": 0.94, "interval": None, "chance": 0.3333, "halfway": 0.6667}
    bins = [{"steps": 90, "said": 0.02, "ended": 0.05}, {"steps": 10, "said": 0.85, "ended": 0.9}]
    evaluation = json.loads(run.evaluation.read_text())
    more = {
        "details": [row.to_dict() for row in details],
        "curves": [curve],
        "branches": [group],
        "reliability": {"real": bins, "own": []},
    }
    write_json(run.evaluation, {**evaluation, **more})
    return run


def test_page_shows_how_far_the_world_holds(with_details: RunFolder) -> None:
    page = Page(write_report(with_details.path).read_text(encoding="utf-8"))
    assert page.open == []
    assert "2 of 3 figures beat their baseline. Of 2 in the details, 1 do not." in page.text
    for name, cells in {
        "bits per frame": ("lower is better", "0.61 bits", "9.91 bits", "PNG 3,296", "yes"),
        "reward error, real frames": ("0.220", "0.210", "no"),
        "drift of PSNR per frame, dB": ("-0.840", "-1.100 to -0.600", "copying: -0.28"),
    }.items():
        (found,) = [text for text in page.rows if name in text]
        assert all(cell in found for cell in cells), found
    assert [text.split() for text in page.rows if "67%" in text] == [["3", "6", "94%", "33%", "67%"]]
    drawn = [attributes["aria-label"] or "" for tag, attributes in page.elements if attributes.get("role") == "img"]
    assert drawn[0] == (
        "PSNR by step: model 37.6 at first and exact at the end; copy 30.0 at first and 27.0 at the end; "
        "ceiling 41.0 at first and 41.0 at the end."
    )
    assert drawn[1] == "Ends of episodes, after real frames: 2% said, 5% came, 85% said, 90% came."
    assert not {tag for tag, _ in page.elements} & {"script", "iframe"}


def test_page_needs_nothing_from_outside(run: RunFolder) -> None:
    text = write_report(run.path).read_text(encoding="utf-8")
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "", text)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed"}
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)


def test_every_stage_has_its_curves_and_its_place(run: RunFolder) -> None:
    page = Page(write_report(run.path).read_text(encoding="utf-8"))
    drawn = [attributes["aria-label"] or "" for tag, attributes in page.elements if attributes.get("role") == "img"]
    titles = ("Loss per objective", "Accuracy", "Learning rate", "Tokens per second")
    assert [label.split(" over ")[0].split(" on ")[0] for label in drawn] == [*titles, *titles]
    assert "masked ends at" in drawn[0] and "text ends at" in drawn[1] and "image ends at" in drawn[1]
    assert "finished, 30 steps" in page.text and "10 of 30 steps" in page.text
    assert "4,000" in page.text  # tokens of 40 steps


def test_what_the_run_lacks_is_named_once(run: RunFolder) -> None:
    page = Page(write_report(run.path).read_text(encoding="utf-8"))
    for line in (
        "Generated worlds: no stage of this run is trained on interaction",
        "One state, every action: no stage of this run is trained on interaction",
        "Text to image: stage unified not finished yet",
        "Image to text: no stage of this run is trained on image to text",
    ):
        assert page.text.count(line) == 1, line
    assert page.text.count("Image tokenizer: ") == 1
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_config_is_there_escaped_and_collapsed(run: RunFolder) -> None:
    text = write_report(run.path).read_text(encoding="utf-8")
    assert "masked &lt;text&gt; accuracy" in text and "<text>" not in text.split("<svg")[0]
    page = Page(text)
    assert run.config_file.read_text(encoding="utf-8") in page.text
    assert [attributes for tag, attributes in page.elements if tag == "details"] == [{}]


def test_report_is_out_of_date_when_something_changed(run: RunFolder) -> None:
    assert not is_reported(run)
    for source in (run.config_file, run.metrics, run.timing, run.evaluation):
        os.utime(source, (1, 1))
    write_report(run.path)
    assert is_reported(run)
    with run.metrics.open("a") as handle:
        handle.write(json.dumps(_metrics(41)) + "\n")
    assert not is_reported(run)
    write_report(run.path)
    assert "11 of 30 steps" in run.report.read_text()


def test_run_without_any_step_still_gets_a_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "small")
    run.store_config(_config(tmp_path))
    page = Page(write_report(run.path).read_text(encoding="utf-8"))
    assert "Not evaluated yet." in page.text and page.text.count("not started") == 2


def test_no_run_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a run folder.*unimodel train"):
        write_report(tmp_path)


def test_moving_average_keeps_constants_and_matches_the_plain_mean_inside() -> None:
    assert np.allclose(moving_average(np.full(9, 3.0), 2), 3.0)
    values = np.arange(20.0) ** 2
    assert np.isclose(moving_average(values, 2)[10], values[8:13].mean())
    assert np.array_equal(moving_average(values, 0), values)


def test_picture_survives_its_data_uri() -> None:
    import base64
    import io

    from PIL import Image

    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    source = picture(frame, "noise").source
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))
    assert np.array_equal(decoded, frame)
