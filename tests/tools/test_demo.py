"""tools/demo.py: its page in a headless Chromium, the same over HTTP alone, and its one-line errors."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jseg.errors import UserError
from jseg.segmentation import Segmentation
from jseg.segmenter import load_segmenter
from tools import demo

ROOT = Path(__file__).parents[2]
SCENE, NAMES = ROOT / "examples" / "scene_1.jpg", "purple checked square, yellow striped square, green dotted star"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the page, which runs in a process of its own; at the end Ctrl-C stops it, and its files are gone."""
    temporary, errors = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("errors") / "errors"
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "demo.py"), "--device", "cpu"], text=True, stdout=subprocess.PIPE,
        stderr=errors.open("w"), env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may have told us to ignore it
    )  # fmt: skip
    line = server.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), errors.read_text()
    assert [path.name[:10] for path in temporary.iterdir()] == ["jseg_demo_"]
    yield line.split()[1]
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 130
    assert errors.read_text().splitlines()[-1] == "interrupted" and not [*temporary.iterdir()]


@pytest.fixture(scope="module")
def expected() -> Segmentation:
    return load_segmenter("shapes", "cpu")(SCENE, NAMES, threshold=0.3)


def rows(result: Segmentation) -> list[list[str]]:
    """Names and shares as the legend shows them."""
    return [[name, f"{100 * share:.1f} %"] for name, share in sorted(result.shares.items(), key=lambda item: -item[1])]


def test_upload_type_and_read_in_a_browser(page: str, expected: Segmentation, browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    tab = browser.new_page()
    tab.set_default_timeout(180_000)  # kernels may have to be compiled, while other tests run
    expect.set_options(timeout=180_000)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page)
    classes, segment = tab.get_by_label("classes", exact=True), tab.get_by_role("button", name="Segment")
    segment.click()
    expect(tab.locator("#legend")).to_have_text("error: file to segment does not exist")
    tab.locator("input[type=file]").first.set_input_files(SCENE)
    expect(tab.locator("button[aria-label='Remove Image']").or_(tab.get_by_label("Clear")).first).to_be_visible()
    classes.fill(NAMES)
    tab.get_by_role("spinbutton").fill("0.3")
    segment.click()
    table = tab.locator("#legend tr")
    expect(table).to_have_count(4)
    assert [row.locator("td").all_inner_texts()[1:] for row in table.all()] == rows(expected)
    expect(tab.locator(".caption-label")).to_have_text([*expected.names])
    with tab.expect_download() as download:
        tab.get_by_role("link", name="scene_1.png").or_(tab.locator("a[download='scene_1.png']")).first.click()
    download.value.save_as(tmp_path / "labels.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels.png")), expected.labels)
    tab.get_by_text("scene_2", exact=True).click()  # an example
    expect(classes).to_have_value("red ringed star, green striped triangle, blue checked circle, green dotted star")
    assert asked and all(url.startswith((page, "data:", "blob:")) for url in asked)  # nothing from elsewhere


def test_the_same_over_http(page: str, expected: Segmentation, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client, text = Client(page, verbose=False, download_files=tmp_path), tmp_path / "notes.jpg"
    text.write_text("no image")
    legend, drawn, maps, files = client.predict(handle_file(SCENE), NAMES, "", 0.3, api_name="/segment")
    for name, share in rows(expected):
        assert f"<td>{name}<td>{share}" in legend
    assert np.asarray(Image.open(drawn)).shape == expected.image.shape
    assert [item["caption"] for item in maps] == list(expected.names)
    names = [f"scene_1_mask_{name.replace(' ', '_')}.png" for name in expected.names]
    assert [Path(file).name for file in files] == ["scene_1.png", "scene_1_overlay.png", *names, "scene_1.json"]
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), expected.labels)
    legend, *_ = client.predict(handle_file(SCENE), "<b>a</b>", "sky", 0, api_name="/segment")
    assert "<td>&lt;b&gt;a&lt;/b&gt;<td>" in legend
    for image, names, message in (
        (handle_file(text), "a", "notes.jpg: not an image"),
        (handle_file(SCENE), "a, <i>, <i>", "class names: &lt;i&gt; is given twice"),
    ):
        legend, *rest = client.predict(image, names, "", 0, api_name="/segment")
        assert legend.endswith(f">error: {message}</b>") and rest == [None, [], None]


def test_a_port_that_is_taken(page: str) -> None:
    port = page.strip("/").rpartition(":")[2]
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--device", "cpu", "--port", port]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    problem = f"error: --host 127.0.0.1 --port {port}: taken, or no address of this machine: choose another\n"
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.endswith(problem)


def test_score_maps_go_from_dark_to_yellow() -> None:
    image = demo.score_map(np.linspace(0, 1, 960, dtype=np.float32)[None].repeat(20, 0))
    assert image.shape == (10, 480, 3) and image[0, 0].sum() < 160  # viridis: (68, 1, 84) to (253, 231, 37)
    assert image[0, -1, :2].min() > 220 > 60 > image[0, -1, 2]


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMP_DIR", "ANALYTICS_ENABLED", "RUN_HISTORY"):
        monkeypatch.setenv(f"GRADIO_{name}", "")  # put back later
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"^the demo needs gradio: pip install 'gradio>=6'$"):
        demo.main([])
