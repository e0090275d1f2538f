"""Published data sets: where their archives are, what these unpack to in a data folder D, what makes them usable.

Checksums are those that torchvision, TensorFlow Datasets and GluonCV record; of the COCO-Stuff maps none is known.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from tqdm import tqdm

from jseg.downloads import RemoteFile, size_of
from jseg.errors import UserError
from jseg.files import TEMPORARY, writing

DOWNLOADS = "downloads"  # folder of the archives in D


@dataclass(frozen=True)
class Archive(RemoteFile):
    """An archive (tar, zip) and what it holds."""

    places: dict[str, str]  # how paths in the archive begin -> the same in D; anything else stays packed
    holds: dict[str, int]  # pattern in D -> files at least, once it is unpacked
    disk: int  # bytes of what is unpacked, and of what the preparation makes of it


@dataclass(frozen=True)
class PublishedData:
    """A data set."""

    folder: str  # in D
    archives: tuple[Archive, ...]
    prepare: tuple[str, ...] = ()  # tool and its arguments, in which `{root}` stands for D
    config: str = ""  # by which it is checked


_VOC = ("http://host.robots.ox.ac.uk/pascal/VOC", "https://thor.robots.ox.ac.uk/pascal/VOC")
_SBD = "www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
_COCO = ("http://images.cocodataset.org/zips", "https://s3.amazonaws.com/images.cocodataset.org/zips")
_MAPS = "calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip"
_ADE = "data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
PUBLISHED = {
    "voc12": PublishedData("VOC2012", (
        Archive("VOCtrainval_11-May-2012.tar",
                (*(f"{address}/voc2012/VOCtrainval_11-May-2012.tar" for address in _VOC),
                 "https://data.pjreddie.com/files/VOCtrainval_11-May-2012.tar"),
                1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd", {"VOCdevkit/VOC2012/": "VOC2012/"},
                {"VOC2012/JPEGImages/*.jpg": 17_125, "VOC2012/SegmentationClass/*.png": 2_913}, 2_100_000_000),
        Archive("benchmark.tgz",  # SBD without its images, which VOC 2012 has
                (f"https://{_SBD}", f"http://{_SBD}"), 1_419_539_633, "82b4d87ceb2ed10f6038a1cba92111cb",
                {f"benchmark_RELEASE/dataset/{name}": f"SBD/{name}" for name in ("cls/", "train.txt", "val.txt")},
                {"SBD/cls/*.mat": 11_355, "SBD/*.txt": 2}, 200_000_000),
    ), ("prepare_voc12", "{root}/VOC2012", "--sbd", "{root}/SBD"), "voc12_inductive"),
    "context": PublishedData("VOC2010", (
        Archive("VOCtrainval_03-May-2010.tar",
                tuple(f"{address}/voc2010/VOCtrainval_03-May-2010.tar" for address in _VOC),
                1_350_000_000, "da459979d0c395079b5c75ee67908abb", {"VOCdevkit/VOC2010/": "VOC2010/"},
                {"VOC2010/JPEGImages/*.jpg": 10_103, "VOC2010/ImageSets/Main/*.txt": 2}, 1_400_000_000),
        Archive("trainval.tar.gz", ("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
                                    "https://roozbehm.info/pascal-context/trainval.tar.gz"),
                31_000_000, "df034edb2c12aa7d33b42b20bb1796e3", {"trainval/": "context_labels/"},
                {"context_labels/*.mat": 10_103}, 200_000_000),
    ), ("prepare_context", "{root}/VOC2010", "--mat", "{root}/context_labels"), "context_inductive"),
    "coco_stuff": PublishedData("coco_stuff164k", (
        Archive("stuffthingmaps_trainval2017.zip", (f"http://{_MAPS}", f"https://{_MAPS}"), 660_000_000, "",
                {f"{name}2017/": f"coco_stuff164k/annotations/{name}2017/" for name in ("train", "val")},
                {"coco_stuff164k/annotations/train2017/*[0-9].png": 118_287,
                 "coco_stuff164k/annotations/val2017/*[0-9].png": 5_000}, 1_700_000_000),
        *(Archive(f"{name}.zip", tuple(f"{address}/{name}.zip" for address in _COCO), size, checksum,
                  {f"{name}/": f"coco_stuff164k/images/{name}/"}, {f"coco_stuff164k/images/{name}/*.jpg": count}, size)
          for name, count, size, checksum in (
            ("val2017", 5_000, 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
            ("train2017", 118_287, 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
          )),
    ), ("prepare_coco_stuff", "{root}/coco_stuff164k"), "coco_stuff_inductive"),
    "ade20k": PublishedData("ADEChallengeData2016", (
        Archive("ADEChallengeData2016.zip", (f"http://{_ADE}", f"https://{_ADE}"), 967_000_000,
                "7328b3957e407ddae1d3cbf487f149ef", {"ADEChallengeData2016/": "ADEChallengeData2016/"},
                {f"ADEChallengeData2016/{kind}/{name}/*.*": count for kind in ("images", "annotations")
                 for name, count in (("training", 20_210), ("validation", 2_000))}, 1_100_000_000),
    ), (), "cross_coco_to_ade20k"),
}  # fmt: skip


def _marker(archive: Archive, root: Path) -> Path:
    return root / DOWNLOADS / f"{archive.name}.unpacking"  # while that is not finished


def _lacking(archive: Archive, root: Path) -> list[str]:
    found = ((pattern, sum(1 for _ in root.glob(pattern)), count) for pattern, count in archive.holds.items())
    return [f"{pattern}: {number:,} of {count:,} files" for pattern, number, count in found if number < count]


def is_unpacked(archive: Archive, root: Path) -> bool:
    """Whether all that an archive holds is there."""
    return not _marker(archive, root).exists() and not _lacking(archive, root)


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free


def _entries(path: Path) -> Iterator[tuple[str, int, bool, Callable[[], IO[bytes]]]]:
    """Name, size, whether it is a regular file, and opener of all that an archive holds but folders, in its order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)  # 0: made where links are unknown
                if not info.is_dir():
                    yield info.filename, info.file_size, regular, partial(archive.open, info)
        return
    with tarfile.open(path, "r|*") as archive:  # a stream, read once
        for member in archive:
            if not member.isdir():
                yield member.name, member.size, member.isfile(), partial(archive.extractfile, member)


def unpack(archive: Archive, path: Path, root: Path) -> None:
    """Writes the files of an archive that have a place to `root`; those of the same size are kept.

    Raises:
        UserError: a path leads outside, one with a place is a link, another file is in the way, or files are lacking.
    """
    marker = _marker(archive, root)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    elsewhere = "take the archive from elsewhere"
    for name, size, regular, opened in tqdm(_entries(path), f"unpacking {path.name}", unit="file", disable=None):
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{path}: {name} in it leads outside: {elsewhere}")
        name = name.removeprefix("./")
        inside = next((inside for inside in archive.places if name.startswith(inside)), None)
        if inside is None:
            continue
        if not regular:
            raise UserError(f"{path}: {name} in it is a link or a device: {elsewhere}")
        target = root / (archive.places[inside] + name.removeprefix(inside))
        if size_of(target) not in (0, size):
            raise UserError(f"{target} is not as in {path.name}: remove it, then start the same again")
        if not target.is_file() or size_of(target) != size:
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{TEMPORARY}unpacking")
            with writing(target), opened() as content, unfinished.open("wb") as file:
                shutil.copyfileobj(content, file, 2**20)
            os.replace(unfinished, target)
    if problems := _lacking(archive, root):
        raise UserError(f"{path} does not hold what is expected ({', '.join(problems)}): {elsewhere}")
    marker.unlink()
