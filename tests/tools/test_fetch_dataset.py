"""tools/fetch_dataset.py, from a server with tiny archives in the real formats to data sets that pass their check."""

from jseg.runtime.command_line import run_tool

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jseg import downloads, reproduction
from jseg.config import read_config
from jseg.data import published
from jseg.data.published import PUBLISHED, Archive, unpack
from jseg.errors import CannotWrite, UserError
from jseg.files import locked
from jseg.reproduction import SUITES
from tests.broken_server import Server, serve
from tests.replicas import make_ade20k, make_coco_stuff, make_context, make_voc12
from tests.tools.test_real_configs import SIZES
from tests.tools.tiny_runs import TINY, run_net
from tools import fetch_dataset, reproduce


def tar(folder: Path, inside: str, mode: str) -> bytes:
    """`folder` packed as `inside`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        archive.add(folder, inside)
    return stream.getvalue()


def zipped(folder: Path) -> bytes:
    """A zip archive of the content of `folder`."""
    return Path(shutil.make_archive(str(folder.parent / f"{folder.name}_packed"), "zip", folder)).read_bytes()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The eight archives, each as it is published."""
    folder = tmp_path_factory.mktemp("archives")
    makers = (make_voc12, make_context, make_coco_stuff, make_ade20k)
    voc, context, coco, ade = (make(folder / make.__name__) for make in makers)
    (voc.sources / "dataset" / "img").mkdir()
    (voc.sources / "dataset" / "img" / "2008_000001.jpg").write_bytes(b"stays packed")
    found = {
        "VOCtrainval_11-May-2012.tar": tar(voc.root, "VOCdevkit/VOC2012", "w"),
        "benchmark.tgz": tar(voc.sources, "benchmark_RELEASE", "w:gz"),
        "VOCtrainval_03-May-2010.tar": tar(context.root, "./VOCdevkit/VOC2010", "w"),
        "trainval.tar.gz": tar(context.sources, "trainval", "w:gz"),
        "stuffthingmaps_trainval2017.zip": zipped(coco.root / "annotations"),
    }
    for name in ("train2017", "val2017"):
        (folder / name).mkdir()
        shutil.move(coco.root / "images" / name, folder / name)
        found[f"{name}.zip"] = zipped(folder / name)
    return found | {"ADEChallengeData2016.zip": zipped(ade.root.parent)}


@pytest.fixture
def server(archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves them; the table of data sets has its addresses, their checksums and numbers of files."""
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    with serve(files=dict(archives)) as server:
        for name, data in PUBLISHED.items():
            local = []
            for archive in data.archives:
                content = archives[archive.name]
                few = {pattern: 2 if pattern.endswith("txt") else 6 for pattern in archive.holds}
                local.append(replace(
                    archive, urls=("http://127.0.0.1:9/gone", f"{server.address}/{archive.name}"), size=len(content),
                    checksum=archive.checksum and hashlib.md5(content).hexdigest(), holds=few, disk=10**6,
                ))  # fmt: skip
            monkeypatch.setitem(PUBLISHED, name, replace(data, archives=tuple(local)))
        tiny = {"check_dataset": ["--allow-partial", "--fraction", "1"]}
        monkeypatch.setattr(fetch_dataset, "run_tool", lambda tool, rest: run_tool(tool, [*rest, *tiny.get(tool, [])]))
        yield server


def fetch(root: Path, *rest: str) -> int:
    return fetch_dataset.main([*rest, "--root", str(root)])


def test_from_an_empty_folder_to_checked_data_sets(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    assert fetch(root, *PUBLISHED, "--dry-run") == 0
    shown = capfd.readouterr().out
    assert shown.count("GB to download") == 8 and "space for archives" in shown and not root.exists()
    server.breaks += [20_000]
    assert fetch(root, *PUBLISHED) == 0
    shown = capfd.readouterr().out
    assert shown.count("nothing wrong was found") == shown.count(" is ready") == 4
    assert len(list((root / "VOC2012" / "SegmentationClassAug").glob("*.png"))) == 10
    assert len(list((root / "VOC2010" / "SegmentationClassContext").glob("*.png"))) == 12
    assert len(list((root / "coco_stuff164k").rglob("*_labelTrainIds.png"))) == 16
    assert not list((root / "SBD").rglob("*.jpg")) and len(list((root / "downloads").iterdir())) == 8

    # again: nothing is downloaded; what is gone is unpacked from the archive, or downloaded once that is gone too
    asked = len(server.requests)
    (root / "SBD" / "cls" / "2008_000001.mat").unlink()
    assert fetch(root, "voc12", "coco_stuff") == 0 and len(server.requests) == asked
    shutil.rmtree(root / "coco_stuff164k" / "images" / "val2017")
    (root / "downloads" / "val2017.zip").unlink()
    assert fetch(root, "coco_stuff", "--delete-archives") == 0
    assert [path for path, _ in server.requests[asked:]] == ["/val2017.zip"]
    assert not (root / "downloads" / "val2017.zip").exists() and (root / "downloads" / "train2017.zip").exists()


def test_own_files_folders_and_addresses_come_first(
    server: Server, archives: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    root, mine = tmp_path / "data", tmp_path / "mine"
    mine.mkdir()
    name = "VOCtrainval_11-May-2012.tar"
    (mine / name).write_bytes(archives[name])
    with serve(files=dict(archives)) as mirror:
        places = ["--from", str(mine), "--from", f"{mirror.address}/folder/"]
        assert fetch(root, "voc12", *places, "--delete-archives") == 0
    assert mirror.requests == [("/folder/benchmark.tgz", None)] and not server.requests
    assert (mine / name).is_file() and not list((root / "downloads").iterdir())  # deleted is only what was downloaded
    (mine / name).write_bytes(archives[name][:-1])
    shutil.rmtree(root / "VOC2012")
    with pytest.raises(UserError, match="voc12 could not be fetched"):
        fetch(root, "voc12", "--from", str(mine / name))
    assert f"error: voc12: {mine / name}: MD5 is " in capfd.readouterr().out


def test_one_data_set_fails_the_next_is_fetched(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    del server.files["benchmark.tgz"]
    with pytest.raises(UserError, match=r"^voc12 could not be fetched"):
        fetch(tmp_path, "voc12", "ade20k")
    shown = capfd.readouterr().out
    assert "error: voc12: benchmark.tgz cannot be fetched (" in shown and "404" in shown
    assert "ade20k: " in shown and (tmp_path / "VOC2012" / "JPEGImages").is_dir()


def test_findings_of_preparation_and_check_are_exit_code_1(server: Server, tmp_path: Path) -> None:
    assert fetch(tmp_path, "voc12") == 0
    (tmp_path / "VOC2012" / "SegmentationClass" / "2009_000001.png").write_bytes(b"damaged")
    (tmp_path / "SBD" / "cls" / "2008_000001.mat").write_bytes(b"damaged")
    assert fetch(tmp_path, "voc12") == 1
    (tmp_path / "VOC2012" / "SegmentationClassAug" / "2008_000001.png").unlink()
    assert fetch(tmp_path, "voc12") == 1


@pytest.mark.parametrize("rest, match", [
    (["voc"], "invalid choice: 'voc'"),
    (["voc12", "--from", "nowhere"], "--from nowhere: no such file or folder, or none that has VOCtrainval_11"),
    (["voc12", "--from", "http://127.0.0.1:9/other.tar"], "none that has .* or benchmark.tgz"),
])  # fmt: skip
def test_mistakes(tmp_path: Path, rest: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        fetch(tmp_path, *rest)


def test_too_little_space_is_told_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_dataset, "free_bytes", lambda _: 10**6)
    with pytest.raises(UserError, match=r"has 0.00 GB free, 0.00 GB are needed \(less with --delete-archives\)"):
        fetch(tmp_path / "data", "voc12")
    assert not (tmp_path / "data").exists() and not server.requests
    monkeypatch.setattr(fetch_dataset, "free_bytes", lambda _: 10**12)
    with locked(tmp_path, ""), pytest.raises(UserError, match="another process fetches data sets to"):
        fetch(tmp_path, "ade20k")


def small(name: str) -> Archive:
    return Archive(name, (), 0, "", {"data/": "own/"}, {"own/*": 1}, 0)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    "name, link", [("../../escaped", False), ("/escaped", False), ("data/../../escaped", False), ("data/link", True)]
)
def test_nothing_leaves_the_folder(tmp_path: Path, kind: str, name: str, link: bool) -> None:
    path, root = tmp_path / f"bad.{kind}", tmp_path / "a" / "root"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE if link else tarfile.REGTYPE), "/etc" if link else ""
            archive.addfile(member)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            archive.writestr(info, "/etc")
    with pytest.raises(UserError, match="is a link or a device" if link else "leads outside"):
        unpack(small(path.name), path, root)
    assert not list(tmp_path.rglob("*escaped*")) and not list((tmp_path / "a").rglob("own*"))


def test_unpacking_goes_on_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data/a", "data/b", "other/c"):
            archive.writestr(name, name)
    files = {name: tmp_path / "own" / name for name in "abc"}
    files["a"].parent.mkdir()
    files["a"].write_text("data/X")  # of the right size: not written again
    files["b"].touch()  # empty, as after a loss of power
    unpack(small("some.zip"), path, tmp_path)
    assert [files["a"].read_text(), files["b"].read_text(), files["c"].exists()] == ["data/X", "data/b", False]
    files["b"].write_text("the user's own")
    with pytest.raises(UserError, match=r"own/b is not as in some.zip: remove it"):
        unpack(small("some.zip"), path, tmp_path)
    assert files["b"].read_text() == "the user's own"
    files["b"].unlink()
    (tmp_path / "own" / ".jseg.unpacking").symlink_to("/dev/full")
    with pytest.raises(CannotWrite, match=r"own/b \(No space left"):
        unpack(small("some.zip"), path, tmp_path)
    assert not published.is_unpacked(small("some.zip"), tmp_path)  # it did not come to its end
    with pytest.raises(UserError, match=r"does not hold what is expected \(own/\*: 0 of 1 files\)"):
        unpack(replace(small("some.zip"), places={"elsewhere/": "own/"}), path, tmp_path / "new")


def test_the_table_names_tools_and_configs_that_are_there() -> None:
    root = Path(__file__).parents[2]
    for name, data in PUBLISHED.items():
        assert not data.prepare or (root / "tools" / f"{data.prepare[0]}.py").is_file()
        found = read_config(root / "configs" / f"{data.config}.py").data
        assert (found.dataset, Path(found.root).name) == (name, data.folder)
        for archive in data.archives:
            assert len(archive.checksum) in downloads.HASHES or archive.name.endswith(".zip")
            assert all(url.endswith(f"/{archive.name}") for url in archive.urls)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools that reproduce.py runs: in this process, but for the one that fetches CLIP, which is left out."""
    found: list[str] = []

    def run(tool: str, arguments: list[str], meanwhile: Callable = lambda: None) -> int:
        found.append(tool)
        code = {"fetch_dataset": fetch_dataset.main, "run_net": run_net.main}.get(tool, lambda _: 0)(arguments)
        meanwhile()
        return code or 0

    monkeypatch.setattr(reproduction, "run_tool", run)
    return found


def test_one_command_from_an_empty_disk_to_the_row(
    server: Server, tools: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """reproduce.py --fetch: downloads, preparation, check, training, evaluation, table; all tools in this process."""
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "row.py").write_text(
        'base = "tiny.py"\nfrom jseg.config import read_config as _read\n'
        '_voc = _read("voc12_inductive").data\n'
        'data = dict(dataset="voc12", root="VOC2012", train=vars(_voc.train), val=vars(_voc.val))\n'
    )
    monkeypatch.setattr(reproduction, "FIRST_STEPS", 3)
    places = ["--root", str(tmp_path / "data"), "--checkpoints", str(tmp_path / "runs")]
    command = ["--suite", str(tmp_path / "row.py"), *places, "--no-cuda"]
    with pytest.raises(UserError, match="1 of 1 rows could not be measured"):
        reproduce.main([*command, "--no-train"])
    shown = capfd.readouterr().out
    assert tools == ["fetch_dataset"] and not server.requests and "GB to download" in shown
    assert "--fetch runs: python tools/fetch_pretrained.py ViT-B-16 vocabulary" in shown
    assert f"--fetch runs: python tools/fetch_dataset.py voc12 --root {tmp_path}/data" in shown
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"fetch_pretrained\.py failed, see above"):
        patch.setattr(reproduction, "run_tool", lambda *_: 1)
        reproduce.main([*command, "--fetch", "--train"])
    tools.clear()
    assert reproduce.main([*command, "--fetch", "--train"]) == 0
    shown = capfd.readouterr().out
    assert tools == ["fetch_pretrained", "fetch_dataset", "run_net", "run_net"]
    assert "1 training runs: 4.3 GB of disk, " in shown and "row, seed_0: 4 steps, 0.0 h" in shown
    assert "TFLOP/s in float32 (estimate)" in shown and "s a step, measured in row" in shown
    assert "| voc12, inductive | 1 | " in (tmp_path / "runs" / "results" / "row.md").read_text()


def test_one_command_from_four_downloads_to_the_page(
    server: Server, tools: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The suite open-vocabulary as it is but for sizes: fetch, prepare, check, train 3 steps, evaluate, report."""
    sizes = (*SIZES, "train.iterations=3", "train.eval_every=3", "train.log_every=1")
    rows = tuple(replace(row, overrides=sizes) for row in SUITES["open-vocabulary"])
    monkeypatch.setitem(SUITES, "open-vocabulary", rows)
    page, runs, results = tmp_path / "report.html", tmp_path / "C", tmp_path / "C" / "results"
    command = ["--suite", "open-vocabulary", "--root", str(tmp_path / "data"), "--checkpoints", str(runs),
               "--no-cuda", "--report", str(page)]  # fmt: skip
    with pytest.raises(UserError, match="4 of 4 rows could not be measured"):  # no training unless asked for
        reproduce.main(command)
    assert "A-150 lacks weights: " in capfd.readouterr().out and not server.requests
    with pytest.raises(UserError, match=r"report\.html exists \(--overwrite"):
        reproduce.main([*command, "--train"])
    tools.clear()
    assert reproduce.main([*command, "--fetch", "--train", "--overwrite"]) == 0
    assert tools == ["fetch_pretrained", "fetch_dataset", *["run_net"] * 5]
    assert capfd.readouterr().out.count("nothing wrong was found") == 4
    table = json.loads((results / "open-vocabulary.json").read_text())["rows"]
    assert [row["title"] for row in table if row["sources"]] == [
        "coco_stuff, supervised", "A-150: CLIP-RC", "PC-59: CLIP-RC", "PAS-20: CLIP-RC"
    ]  # fmt: skip
    for name, classes in (("A-150", 150), ("PC-59", 59), ("PAS-20", 20)):
        metrics = json.loads((results / name / "seed_0" / "metrics.json").read_text())
        assert len(metrics["IoU"]) == classes and metrics["mIoU"] == pytest.approx(metrics["mIoU(S)"])
        (ours,) = (row for row in table if row["row"] == name and row["sources"])
        assert [item["mean"] for item in ours["comparisons"]] == [metrics["pAcc"], metrics["mIoU"]]
        record = json.loads((results / ours["records"]["seed_0"]).read_text())
        assert record["environment"]["device"] == "cpu" and len(record["identity"]["config"]["text"]["templates"]) == 15
    run = results / table[0]["records"]["training of seed_0"]
    assert run.resolve() == runs / "coco_stuff_supervised" / "seed_0" / "record.json"
    shown = page.read_text()
    assert shown.count("<img ") == 1 + 4 and shown.count('class="bars"') == 4 and "swivel chair" in shown
