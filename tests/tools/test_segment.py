"""tools/segment.py: what it writes and prints, and its one-line errors."""

from jseg.runtime.command_line import run

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from jseg.segmenter import load_segmenter
from tests.small_weights import write_clip, write_ours, write_released
from tools.segment import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with weight files; class embeddings are cached beside them."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JSEG_CACHE", str(folder / "cache"))
        write_ours(folder / "ours.safetensors")
        write_released(folder / "released.pth")
        write_clip(folder / "clip.safetensors")
        yield folder


@pytest.fixture
def segment(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the tool in a folder with two images: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("one.png", (40, 60)), ("two.jpg", (64, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(name)

    def call(*arguments: str, classes: str = "cat,dog,grass", file: str = "ours.safetensors") -> tuple[int, str, str]:
        options = ["--classes", classes, "--weights", str(weights / file), "--device", "cpu"]
        with pytest.raises(SystemExit) as ended:
            run(lambda: main([*arguments, *options]))
        return ended.value.code, *capsys.readouterr()

    return call


def test_a_plain_clip_needs_no_config(segment: Run) -> None:
    code, printed, _ = segment("one.png", "--training-free", "naclip", file="clip.safetensors")
    assert code == 0 and "naclip: not trained, any names" in printed
    code, _, errors = segment("one.png", "--training-free", "naclip")
    assert code == 2 and "without --training-free" in errors


def test_writes_label_map_and_overlay(segment: Run, weights: Path) -> None:
    code, printed, _ = segment("one.png", "two.jpg")
    assert code == 0
    names = sorted(path.name for path in Path("segmented").iterdir())
    assert names == ["one.png", "one_overlay.png", "two.png", "two_overlay.png"]
    expected = load_segmenter(weights / "ours.safetensors", "cpu")(
        np.asarray(Image.open("one.png")), ["cat", "dog", "grass"]
    )
    with Image.open("segmented/one.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected.labels)
    line = next(line for line in printed.splitlines() if line.startswith("one.png: "))
    assert line.endswith("-> segmented/one.png, segmented/one_overlay.png")
    for name, share in expected.shares.items():
        assert (f"{name} {100 * share:.1f} %" in line) == (share > 0)


def test_templates_seen_classes_folder_and_text_tower(segment: Run, weights: Path) -> None:
    options = ["--template", "a drawing of a {}.", "--template", "{}", "--seen", "dog", "--save-dir", "deep/out"]
    clip = ["--clip", str(weights / "clip.safetensors")]
    code, printed, errors = segment("one.png", *options, *clip, file="released.pth")
    assert (code, errors) == (0, "") and "no computation uses" in printed
    assert sorted(path.name for path in Path("deep/out").iterdir()) == ["one.png", "one_overlay.png"]


def test_folders_patterns_and_every_kind_of_output(segment: Run) -> None:
    Path("photos/deep").mkdir(parents=True)
    for name in ("photos/a.png", "photos/deep/a.jpg"):
        Image.new("RGB", (20, 30), "red").save(name)
    Path("photos/bad.jpg").write_text("no image")
    Path("names.txt").write_text("cat|kitten\ndog\n")
    options = [
        "--save-dir", "photos/out", "--save", "labels, overlay,masks,scores,json,label_studio", "--summary",
        "shares.csv",
    ]  # fmt: skip
    options += ["--skip-bad", "--threshold", "0.5", "--others", "wall", "--outline", "--opacity", "0.9"]
    code, printed, errors = segment("photos", "on?.png", *options, classes="@names.txt")
    assert code == 0 and "skipped: photos/bad.jpg: not an image" in errors
    assert printed.endswith("coco.json\nannotations: photos/out/label_studio.json\nshares of the classes: shares.csv\n")
    out = {str(path.relative_to("photos/out")) for path in Path("photos/out").rglob("*.*")}
    ends = (".png", "_overlay.png", "_mask_cat.png", "_mask_dog.png", "_scores.npz")
    assert out == {f"{name}{end}" for name in ("a", "deep/a", "one") for end in ends} | {
        "coco.json",
        "label_studio.json",
    }
    coco = json.loads(Path("photos/out/coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["photos/a.png", "photos/deep/a.jpg", "one.png"]
    tasks = json.loads(Path("photos/out/label_studio.json").read_text())
    files = [task["data"]["image"].partition("?d=")[2] for task in tasks]
    assert files == [image["file_name"] for image in coco["images"]]
    ids = [item["id"] for item in coco["annotations"]]
    assert ids == list(range(1, len(ids) + 1)) and ids
    with open("shares.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and list(rows[0]) == ["image", "cat", "dog", "none of these"]
    with Image.open("photos/out/one.png") as image:
        labels = np.asarray(image)
    assert {*np.unique(labels)} <= {0, 1, 255}
    assert float(rows[2]["none of these"]) == pytest.approx((labels == 255).mean(), abs=1e-4)
    assert segment("photos/bad.jpg", "--skip-bad")[2].endswith("error: no image is left\n")
    assert segment("photos", "on?.png", *options, "--overwrite")[0] == 0  # outputs in the folder are no inputs
    Path("two.png").write_text("no image")  # what is left out is an input all the same
    errors = segment("two.jpg", "two.png", "--skip-bad", "--save-dir", ".", "--overwrite")[2]
    assert "two.png itself would be overwritten" in errors


def test_a_video_gets_an_overlay_of_each_frame(segment: Run) -> None:
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for shade in (0, 80, 160):
        video.write(np.full((48, 64, 3), shade, np.uint8))
    video.release()
    code, printed, _ = segment("clip.avi", "one.png")
    assert code == 0 and "clip.avi: overlay of each frame -> segmented/clip_overlay.mp4" in printed
    assert segment("clip.avi", "--save", "mask")[2].startswith("error: parts to save: mask is not known")
    overlay = cv2.VideoCapture("segmented/clip_overlay.mp4")
    frames = []
    while (frame := overlay.read())[0]:
        frames.append(frame[1])
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3 and overlay.get(cv2.CAP_PROP_FPS) == 5
    assert frames[2].mean() > frames[0].mean() + 20
    assert sorted(path.name for path in Path("segmented").iterdir()) == [
        "clip_overlay.mp4", "one.png", "one_overlay.png",
    ]  # fmt: skip


def test_a_video_that_breaks_off_keeps_the_overlay_so_far(segment: Run) -> None:
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for _ in range(30):
        video.write(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    video.release()
    content = Path("clip.avi").read_bytes()
    Path("clip.avi").write_bytes(content[: len(content) // 2])
    code, printed, errors = segment("clip.avi", "one.png")
    read = int(cv2.VideoCapture("segmented/clip_overlay.mp4").get(cv2.CAP_PROP_FRAME_COUNT))
    assert 2 < read < 25 and errors.endswith(f"error: clip.avi breaks off: only {read} of 30 frames could be read\n")
    assert code == 1 and "one.png: " in printed  # the other image all the same


MISTAKES = {  # arguments, class list or weight file of a mistake, and what its message names
    "text file": (["notes.txt"], {}, "notes.txt: not an image"),
    "blank class": (["one.png"], {"classes": "cat,,dog"}, "no empty ones"),
    "no text tower": (["one.png"], {"file": "released.pth"}, "--clip"),
    "template without place": (["one.png", "--template", "a photo"], {}, "must hold {}"),
    "absurdly long image": (["one.png", "long.png"], {}, "long.png: 1x30000 pixels"),
    "input overwritten": (["one.png", "--save-dir", "."], {}, "one.png itself would be overwritten"),
    "input overwritten on purpose": (["one.png", "--save-dir", ".", "--overwrite"], {}, "one.png itself would be"),
    "another image overwritten": (["one.jpg", "--save-dir", "theirs"], {}, "theirs/one.png was not written by jseg"),
    "same stems": (["one.jpg", "one.png"], {}, "segmented/one.png would be written twice"),
    "folder without images": (["empty"], {}, "empty: no image in this folder"),
    "no such pattern": (["*.gif"], {}, "*.gif does not exist"),
    "no video": (["bad.mp4"], {}, "bad.mp4: not a video"),
    "video that is not there": (["none.mp4"], {}, "none.mp4: does not exist"),
    "unknown part": (["one.png", "--save", "labels,mask"], {}, "mask is not known: choose from labels, overlay"),
    "no file of names": (["one.png"], {"classes": "@none.txt"}, "(file none.txt does not exist)\n"),
    "summary exists": (["one.png", "--summary", "notes.txt"], {}, "notes.txt exists (--overwrite"),
    "method forgotten": (["--training-free", "one.png"], {}, "invalid choice: 'one.png' (choose from"),
    "threshold in percent": (["one.png", "--threshold", "30"], {}, "threshold 30.0: must be 0..1"),
    "opacity": (["one.png", "--opacity", "55"], {}, "--opacity 55"),
    "folder without a name": (["one.png", "--save-dir", ""], {}, "a path is empty"),
}


@pytest.mark.parametrize(("arguments", "changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_give_one_line_only(segment: Run, arguments: list[str], changes: dict[str, str], message: str) -> None:
    Path("notes.txt").write_text("not an image at all, only some text")
    Image.new("RGB", (1, 30000)).save("long.png")
    Path("bad.mp4").write_text("no video")
    Path("theirs").mkdir()
    Path("empty").mkdir()
    for path in ("one.jpg", "theirs/one.png"):
        Image.new("RGB", (9, 9)).save(path)
    before = sorted(Path().rglob("*"))
    code, _, errors = segment(*arguments, **changes)
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors
    assert sorted(Path().rglob("*")) == before


def test_files_of_ours_are_replaced_and_theirs_on_purpose(segment: Run) -> None:
    """Also two images of one name from different folders, one after the other."""
    Path("deep").mkdir()
    Image.new("RGB", (20, 30)).save("deep/one.png")
    for image in ("one.png", "deep/one.png"):
        assert segment(image)[0] == 0
    with Image.open("segmented/one.png") as image:
        assert image.size == (20, 30)
        image.save("segmented/one.png")  # corrected by hand
    code, _, errors = segment("one.png")
    assert code == 2 and "segmented/one.png was not written by jseg" in errors
    assert segment("one.png", "--overwrite")[0] == segment("one.png")[0] == 0
