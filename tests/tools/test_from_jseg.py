"""A user of a release switches: small runs from look-alikes of its files, and the spellings of its commands."""

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.data.class_names import class_list
from jseg.weights.reader import read_weight_file
from tests.look_alikes import Sizes, write_release
from tests.replicas import make_coco_stuff, make_voc12, save_list
from tests.small_weights import clip_tensors
from tests.tools.tiny_runs import refused, run_net
from tools import prepare_coco_stuff, prepare_voc12

SIZES = Sizes(64, width=64, layers=2, output=16, prompts=2, regions=4, text=(77, 64, 1, 1), decoder=(1, 2), stride=48)
CLIP = {"image_size": 32, "patch_size": 16, "image_width": 64, "image_layers": 2, "image_heads": 1, "text_width": 64,
        "text_layers": 1, "text_heads": 1, "context_length": 77, "vocab_size": 49408, "output_dim": 16}  # fmt: skip
SHORT = [
    "train.iterations=3", "train.batch_size=2", "train.eval_every=0", "data.workers=0", "model.heads=1",
    "expected={}",
]  # fmt: skip


def embeddings(path: Path, dataset: str) -> None:
    """Class embeddings that stand in for the released ones."""
    path.parent.mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((len(class_list(dataset).names), 16))
    np.save(path, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))


def trained_weights(work_dir: Path) -> dict[str, np.ndarray]:
    """The model of a finished run by the names of the releases, with an untrained text tower."""
    tensors = read_weight_file(work_dir / "weights.safetensors").tensors
    model = {name: x for name, x in tensors.items() if name.startswith(("backbone.", "decode_head."))}
    tower = {name: x * 0 + 1 for name, x in clip_tensors(CLIP).items() if not name.startswith(("visual", "logit"))}
    return model | {f"text_encoder.{name}": x for name, x in tower.items()}


def command(config: Path, work_dir: Path, *rest: str) -> list[str]:
    return ["--config-file", str(config), "--work-dir", str(work_dir), "--device", "cpu", *rest, *SHORT]


def test_a_jseg_user(
    tmp_path: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """VOC, ViT-B-16.pkl, the layout of its checkout: train, then a .pkl as its trainer writes it: val and test."""
    replica = make_voc12(tmp_path)
    assert prepare_voc12.main([str(tmp_path / "VOCdevkit"), str(replica.sources), "--workers", "0"]) == 0
    checkout = tmp_path / "JSeg"
    config = write_release(checkout, "JSeg", "voc12", "inductive", SIZES, str(replica.root))
    jt.save({name: jt.array(x) for name, x in clip_tensors(CLIP).items()}, str(checkout / "ViT-B-16.pkl"))
    embeddings(checkout / "project" / "clip_rc" / "text_embedding" / "voc12_single.npy", "voc12")
    monkeypatch.chdir(checkout)
    assert run_net.main(command(Path("project/clip_rc/voc12") / config.name, tmp_path / "run")) == 0
    shown = capsys.readouterr().out
    assert "batch_size=4 of JSeg's VOC file" in shown and f"model.init={checkout / 'ViT-B-16.pkl'}" in shown
    meta = {"jseg_version": "0", "iter": 3, "config": {"model": {"class_names": class_list("voc12").names}}}
    weights = {name: jt.array(x) for name, x in trained_weights(tmp_path / "run").items()}
    jt.save({"meta": meta, "model": weights, "scheduler": {}, "optimizer": {}}, str(tmp_path / "ckpt_3.pkl"))
    monkeypatch.chdir(tmp_path)  # from any folder
    evaluate = command(config, tmp_path / "val", "--task", "val", "--resume", "ckpt_3.pkl")
    assert run_net.main(evaluate) == 0
    shown = capsys.readouterr().out
    assert "ckpt_3.pkl is untrained" in shown and "class embeddings come from" in shown
    assert len(json.loads((tmp_path / "val" / "metrics.json").read_text())["IoU"]) == 20
    assert run_net.main(command(config, tmp_path / "val", "--task", "test", "--weights", "ckpt_3.pkl")) == 0
    assert len(list((tmp_path / "val" / "images").glob("*_overlay.png"))) == 8
    (checkout / "ViT-B-16.pkl").unlink()
    refused([*evaluate, "text.embeddings="], capsys, "ckpt_3.pkl is untrained", "text.embeddings", "model.init")
    meta["config"]["model"]["class_names"] = class_list("voc12").names[::-1]
    jt.save({"meta": meta, "model": weights}, str(tmp_path / "ckpt_3.pkl"))
    refused(evaluate, capsys, "made for other classes", "in reverse order")


def test_a_user_of_the_pytorch_release(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """COCO-Stuff, self-training from a .pth, its options; VOC's two lists of masks."""
    replica = make_coco_stuff(tmp_path)
    assert prepare_coco_stuff.main([str(replica.root), "--workers", "0"]) == 0
    release = tmp_path / "CLIP-RC"
    config = write_release(release, "CLIP-RC", "coco_stuff", "inductive", SIZES, str(replica.root), "ViT-B-16.pt")
    torch.save({name: torch.from_numpy(x) for name, x in clip_tensors(CLIP).items()}, release / "ViT-B-16.pt")
    embeddings(release / "configs/_base_/datasets/text_embedding/coco_multi.npy", "coco_stuff")
    assert run_net.main(command(config, tmp_path / "run", "--seed", "5")) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["seed"] == 5
    tensors = {name: torch.from_numpy(x) for name, x in trained_weights(tmp_path / "run").items()}
    meta = {"CLASSES": class_list("coco_stuff").names, "iter": 40000}
    torch.save({"meta": meta, "state_dict": tensors}, tmp_path / "iter_40000.pth")
    start = write_release(release, "CLIP-RC", "coco_stuff", "transductive", SIZES, str(replica.root), "ViT-B-16.pt")
    again = command(start, tmp_path / "st", "--load-from", str(tmp_path / "iter_40000.pth"))
    assert run_net.main([*again, "--cfg-options", "runner.max_iters=2", "log_config.interval=1"]) == 0
    recorded = json.loads((tmp_path / "st" / "config.json").read_text())
    assert recorded["train"]["iterations"] == 3 and recorded["train"]["log_every"] == 1  # ours at the end goes first
    views = command(start, tmp_path / "st", "--resume", "--eval", "mIoU", "data.val.names=one.txt", "--aug-test")
    save_list(replica.root / "one.txt", replica.val[:1])
    capsys.readouterr()
    assert run_net.main([*views, "--show-dir", str(tmp_path / "shown")]) == 0
    assert "scales 0.5, 0.75, 1, 1.25, 1.5, 1.75, mirrored too" in capsys.readouterr().out
    assert len(list((tmp_path / "shown").glob("*_overlay.png"))) == 1
    refused([*views, "--gpus", "4"], capsys, "mpirun -np 4")
    refused([*views, "--eval", "mDice"], capsys, "--eval mDice: --task val measures pAcc, mIoU and hIoU")
    voc = make_voc12(tmp_path / "voc")
    assert prepare_voc12.main([str(voc.root), "--sbd", str(voc.sources), "--workers", "0"]) == 0
    for name in voc.train:  # as the release's tool leaves it: masks of SBD alone
        (voc.root / "SegmentationClassAug" / f"{name}.png").unlink()
    config = write_release(release, "CLIP-RC", "voc12", "inductive", SIZES, str(voc.root), "ViT-B-16.pt")
    path = release / "configs/_base_/datasets/text_embedding/voc12_single.npy"
    np.save(path, np.eye(20, 16, dtype=np.float16))
    assert run_net.main(command(config, tmp_path / "voc_run")) == 0
