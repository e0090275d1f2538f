"""The page of a suite's results, opened in a headless Chromium."""

from jseg.runtime.command_line import command_line

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from jseg.data.class_names import class_list
from jseg.drawing import write_images
from jseg.files import write_json
from jseg.outputs import is_ours
from jseg.reproduction import RECORD_NAME, Row, records, row_results
from jseg.reproduction_report import write_report

NAMES = class_list("voc12").names
FIRST = Row("first", "voc12_inductive.py", title="<b>VOC</b> & more", seeds=(0, 1))
SECOND = Row(
    "second", "cross_coco_to_voc12.py", weights_of="elsewhere", title="PAS-20: ours", others=(("Other", 94.6),)
)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a row of two seeds and of one across data sets, whose folders hold what the runs leave."""
    runs, results, rng = tmp_path / "C", tmp_path / "C" / "a b", np.random.default_rng(0)
    table = []
    for row, sources in ((FIRST, ("seed_0", "seed_1")), (SECOND, ("given",))):
        for number, source in enumerate(sources):
            folder = results / row.name / source
            ious = {name: None if name == "sofa" else 5.0 * index + 2 * number for index, name in enumerate(NAMES)}
            write_json(folder / "metrics.json", {"IoU": ious})
            write_json(folder / RECORD_NAME, {"weights": f"</pre>{row.name}"})
            write_images({folder / "best_and_worst.png": rng.integers(0, 256, (300, 900, 3), dtype=np.uint8)})
            if source != "given":
                run = runs / row.name / source
                write_json(run / RECORD_NAME, {"starts": []})
                lines = [
                    {"event": "train", "iteration": i, "losses": {"total": 9 / i}, "lr": 1e-3} for i in range(1, 9)
                ]
                (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = row_results(row, {source: {"pAcc": 90.0 + n, "mIoU": 80.0} for n, source in enumerate(sources)})
        table += [result | {"records": records(row, result, runs, results)} for result in found]
    path = tmp_path / "pages" / "report.html"
    write_report(path, "own", [FIRST, SECOND], table, {"third": ["weights: x.pth"]}, runs, results)
    assert is_ours(path)
    return path


def test_the_page_holds_all_it_shows_and_what_is_not_ours_only_as_text(page: Path) -> None:
    """Without a browser: no other address, images inside, links to files that are there, names escaped."""
    text = page.read_text()
    linked, images = re.findall(r'<a href="([^"]+)"', text), re.findall(r'<img[^>]* src="([^"]+)"', text)
    assert len(linked) == 5 and all((page.parent / unquote(link)).is_file() for link in linked)
    assert len(images) == 3 and all(image.startswith("data:image/") for image in images)
    assert not re.search(r"https?://|<script|<link", text)
    assert "&lt;b&gt;VOC&lt;/b&gt; &amp; more" in text and "<b>VOC" not in text
    assert "&lt;/pre&gt;second" in text and "</pre>second" not in text
    assert "third lacks weights: x.pth" in text and "90.5 ± 0.7" in text


def test_the_page_in_a_browser(page: Path, browser: Any) -> None:
    tab, asked, errors = browser.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(page.as_uri())
    assert tab.title() == "Suite own" and tab.locator("li").all_inner_texts() == ["third lacks weights: x.pth"]
    head, *lines = [row.locator("th, td").all_inner_texts() for row in tab.locator("tr").all()]
    assert head == ["row", "n", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "mIoU", "as expected", "records"]
    assert lines[0][:3] == ["<b>VOC</b> & more", "2", "90.5 ± 0.7 (95.8)"]
    assert lines[0][7:] == ["missed: pAcc, mIoU(S), mIoU(U), hIoU",
                            "seed_0, training of seed_0, seed_1, training of seed_1"]  # fmt: skip
    assert lines[1:] == [["PAS-20: ours (given file)", "1", "90.0", "", "", "", "80.0", "", "given"],
                         ["PAS-20: Other", "published", "-", "", "", "", "94.6", "", ""]]  # fmt: skip
    for link in tab.locator("a").all():  # found from the folder of the page, whatever is in its name
        path = Path(link.evaluate("link => decodeURIComponent(new URL(link.href).pathname)"))
        assert path.is_file() and path.name == RECORD_NAME
    images = tab.locator("img").evaluate_all("all => all.map(image => [image.alt, image.naturalWidth])")
    assert [alt for alt, _ in images] == ["curves of training", "Best and worst images of seed_0",
                                          "Best and worst images"]  # fmt: skip
    assert [width for _, width in images][1:] == [900, 900] and images[0][1] > 1000

    first, second = tab.locator(".bars").all()
    bars = [bar.inner_text().split("\n") for bar in first.locator("div").all()]
    assert bars[0] == ["tvmonitor", "96.0"] and bars[-1] == ["sofa", "-"] and len(bars) == 20  # means of two seeds
    assert ["aeroplane", "1.0"] in bars
    unseen = first.locator(".unseen span").all_inner_texts()
    assert sorted(unseen) == sorted(NAMES[15:]) and not second.locator(".unseen").count()
    drawn = first.locator("b").evaluate_all("all => all.map(bar => getComputedStyle(bar).backgroundSize)")
    assert drawn[0] == "96% 70%" and drawn[-1] == "0% 70%"
    shown = tab.locator("details").last
    assert not shown.locator("pre").is_visible()
    shown.locator("summary").click()
    assert "</pre>second" in shown.locator("pre").inner_text()
    assert tab.locator("h2:has-text('Command') + pre").inner_text().strip() == command_line().strip()
    assert "jittor: 1.3" in tab.locator("h2:has-text('Environment') + pre").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out
    assert errors == [] and [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
