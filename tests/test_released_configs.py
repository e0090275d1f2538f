"""Config files of the two releases: each run equals ours, each key means what the table says, the rest is refused."""

from pathlib import Path

import pytest

from jseg.config import Config, flatten, read_config, to_dict
from jseg.data.class_names import classes_of
from jseg.errors import UserError
from tests.look_alikes import LOSSES, RUNS, write_release
from tools import convert_config

CONFIGS = Path(__file__).parents[1] / "configs"
LISTS = ["ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/aug.txt"]


def differences(config: Config, base: Config) -> dict[str, object]:
    """Values of `config`, by key, where it differs from `base`."""
    ours = flatten(to_dict(base))
    return {key: value for key, value in flatten(to_dict(config)).items() if value != ours[key]}


@pytest.mark.parametrize(("release", "dataset", "setting"), RUNS)
def test_a_released_config_equals_ours_of_the_same_run(
    release: str, dataset: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """Key by key but for places of files, intervals, processes, and VOC's masks, which JSeg has in one folder."""
    monkeypatch.chdir(tmp_path)
    path, jseg = write_release(tmp_path, release, dataset, setting), release == "JSeg"
    ours = read_config(CONFIGS / f"{dataset}_{setting}.py")
    found = differences(read_config(path), ours)
    files = {"data.root": "/data/of/others", "model.init": str(tmp_path / "ViT-B-16.pkl")}
    folder = tmp_path / ("project/clip_rc" if jseg else "configs/_base_/datasets") / "text_embedding"
    files["text.embeddings"] = str(folder / ("voc12_single.npy" if dataset == "voc12" else "coco_multi.npy"))
    if dataset == "voc12" and jseg:
        files |= {
            "data.train.labels": "SegmentationClassAug",
            "data.train.names": LISTS[0].replace("train", "trainaug"),
        }
    assert {key: found.pop(key) for key in files} == files
    # CLIP-RC's interval of evaluation is ours, JSeg's half of it
    assert found.pop("train.eval_every", ours.train.eval_every) * (2 if jseg else 1) == ours.train.eval_every
    assert found.keys() <= {"train.save_every", "data.workers"}
    shown = capsys.readouterr().out
    assert ("warning: no loss weights" in shown) == jseg and "without effect, as in the releases: " in shown
    assert ("batch_size=4 of JSeg's VOC file is not the recipe's" in shown) == (jseg and dataset == "voc12")
    assert ("images a GPU, on an unknown number of GPUs: the batch is the recipe's, 16" in shown) == (not jseg)
    for name in (
        "drop_path_rate",
        "num_classes",
        *(("shuffle", "drop_last", "logger") if jseg else ("style", "hooks")),
    ):
        assert f" {name}" in shown.partition("without effect")[2].partition("\n")[0]


BACKBONE, HEAD, TEST = "model['backbone']", "model['decode_head']", "model['test_cfg']"
CLIP = "model.update(pretrained='/a/b.pkl', pretrained_text='/a/b.pkl')"
SMALL = """
norm = dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6])
def sized(side):
    return dict(train=dict(pipeline=[dict(type='Resize', img_scale=(side, 4 * side)),
        dict(type='RandomCrop', crop_size=(side, side)), norm]), **{part: dict(pipeline=[dict(type='MultiScaleFlipAug',
        transforms=[dict(type='Resize', min_size=side), norm])]) for part in ('val', 'test')})
"""
VIEWS = """dict(val=dict(pipeline=[dict(type='MultiScaleFlipAug', img_ratios=[0.5, 1.0], flip=True,
    transforms=[dict(type='Resize', min_size=480)])]))"""
MEANINGS = [  # what is added to JSeg's and to CLIP-RC's file ("" = cannot be there), our keys and values
    ("dataset = dict(train=dict(data_root='/d'), val=dict(data_root='/d'))",
     "data.update({part: dict(data_root='/d') for part in ('train', 'val', 'test')})", {"data.root": "/d"}),
    ("dataset = dict(train=dict(img_dir='i', ann_dir=['a'], split='s', img_suffix='.png', seg_map_suffix='_l.png'))",
     "data['train'] = dict(img_dir='i', ann_dir=['a'], split='s', img_suffix='.png', seg_map_suffix='_l.png')",
     {"data.train": {"images": "i", "labels": "a", "names": "s", "image_suffix": ".png", "label_suffix": "_l.png"}}),
    ("dataset = dict(train=dict(batch_size=8))", "", {"train.batch_size": 8}),
    ("dataset = dict(train=dict(num_workers=3))", "data['workers_per_gpu'] = 3", {"data.workers": 3}),
    (f"{SMALL}dataset = sized(256)", f"{SMALL}data.update(sized(256))",
     {"data.resize_box": [1024, 256], "data.ratio_range": [1.0, 1.0], "data.crop_size": [256, 256],
      "data.max_class_share": 1.0, "data.flip_probability": 0.0, "data.photometric": False, "data.mean": [1, 2, 3],
      "data.std": [4, 5, 6], "test.short_side": 256}),
    (f"dataset = {VIEWS}", "", {"test.short_side": 480, "test.scales": [0.5, 1.0], "test.flip": True}),
    (CLIP, CLIP, {"model.init": "/a/b.pkl"}),
    ("model['self_training'] = True", "model['self_training'] = True", {"data.setting": "transductive"}),
    (f"{HEAD}.update(img_size=256)\n{BACKBONE}.update(input_resolution=256, num_tokens=7)",
     f"{HEAD}.update(img_size=256)\n{BACKBONE}.update(input_resolution=256, num_tokens=7)",
     {"model.image_size": 256, "model.prompts": 7}),
    (f"{BACKBONE}.update(patch_size=8, width=384, prompt_dim=384, layers=6, total_d_layer=5, out_indices=[5], heads=6)",
     "", {"model.patch_size": 8, "model.width": 384, "model.layers": 6, "model.heads": 6}),
    (f"{BACKBONE}.update(region_level_bridge_size=4)", f"{BACKBONE}.update(region_level_bridge_size=4)",
     {"model.region_grid": 2}),
    (f"{HEAD}.update(num_layers=2, num_heads=4, recovery_decoder_num_layers=3)", "",
     {"model.decoder_layers": 2, "model.decoder_heads": 4, "model.recovery_layers": 3}),
    ("model['text_encoder'].update(context_length=50, transformer_width=64, transformer_layers=2, transformer_heads=1)",
     "",
     {"text.context_length": 50, "text.width": 64, "text.layers": 2, "text.heads": 1}),
    ("model['load_text_embedding'] = None", "", {"text.embeddings": "", "text.templates": ["a photo of a {}"]}),
    (f"{HEAD}['loss_decode'] = dict(type='SegLoss', mask_weight=5, dice_weight=6, recovery_loss_weight=7)",
     f"{HEAD}['loss_decode'].update(mask_weight=5, dice_weight=6, recovery_loss_weight=7)",
     {"loss.mask": 5, "loss.dice": 6, "loss.recovery": 7}),
    (f"{TEST}.update(mode='whole', crop_size=(480, 480), stride=(32, 48))", "",
     {"test.mode": "whole", "test.crop_size": [480, 480], "test.stride": [32, 48]}),
    ("optimizer.update(lr=1e-3, betas=(0.8, 0.9), weight_decay=0.5)",
     "optimizer.update(lr=1e-3, betas=(0.8, 0.9), weight_decay=0.5)",
     {"optimizer.lr": 1e-3, "optimizer.betas": [0.8, 0.9], "optimizer.weight_decay": 0.5}),
    ("", "optimizer_config = dict(grad_clip=dict(max_norm=3.0))",
     {"optimizer.clip_norm": 3.0, "optimizer.groups": "released"}),
    ("parameter_groups_generator['custom_keys'].update(backbone=dict(lr_mult=3), head=dict(lr_mult=3))",
     "optimizer['paramwise_cfg']['custom_keys'].update(backbone=dict(lr_mult=3), head=dict(lr_mult=3))",
     {"optimizer.lr_factor": 3}),
    ("scheduler.update(power=0.8, min_lr=1e-5, warmup_iters=9, warmup_ratio=1e-3)",
     "lr_config.update(power=0.8, min_lr=1e-5, warmup_iters=9, warmup_ratio=1e-3)",
     {"optimizer.power": 0.8, "optimizer.min_lr": 1e-5, "optimizer.warmup_iterations": 9,
      "optimizer.warmup_ratio": 1e-3}),
    ("max_iter = scheduler['max_steps'] = 30", "runner = dict(max_iters=30)", {"train.iterations": 30}),
    ("eval_interval, checkpoint_interval, log_interval = 3, 4, 5",
     "evaluation, checkpoint_config, log_config = dict(interval=3), dict(interval=4), dict(interval=5)",
     {"train.eval_every": 3, "train.save_every": 4, "train.log_every": 5}),
    ("", "seed = 7", {"train.seed": 7}),
]  # fmt: skip


@pytest.mark.parametrize("release", ["JSeg", "CLIP-RC"])
@pytest.mark.parametrize("row", MEANINGS, ids=lambda row: next(iter(row[2])))
def test_every_key_has_the_meaning_of_the_table(release: str, row: tuple, tmp_path: Path) -> None:
    path = write_release(tmp_path, release, "voc12", "inductive")
    if added := row[release != "JSeg"]:
        path.write_text(f"{path.read_text()}\n{added}\n")
        found = flatten(to_dict(read_config(path)))
        assert {key: found[key] for key in flatten(row[2])} == flatten(row[2])


REFUSED = [
    (f"{BACKBONE}['total_d_layer'] = 5", "=5 does not fit model.backbone.out_indices=(11,): both are model.layers"),
    (f"{BACKBONE}['out_indices'] = [3, 11]", "out_indices=(3, 11) does not fit"),
    (f"{BACKBONE}['prompt_dim'] = 64", "prompt_dim=64 does not fit model.backbone.width=768"),
    (f"{BACKBONE}['get_embeddings'] = False", "get_embeddings=False: jseg computes as the releases, with True"),
    (f"{HEAD}['use_proj'] = True", "use_proj=True"),
    (f"{HEAD}['use_stages'] = 2", "use_stages=2"),
    ("model['exclude_key'] = 'norm'", "exclude_key='norm'"),
    ("model['ft_backbone'] = True", "ft_backbone=True"),
    (f"{BACKBONE}['region_level_bridge_size'] = 5", "region_level_bridge_size=5 cannot be used"),
    (f"{BACKBONE}['num_token'] = 5", "unknown key model.backbone.num_token: did you mean model.backbone.num_tokens?"),
    ("maxiter = 5", "unknown key maxiter: did you mean max_iter?"),
    ("fp16 = dict(loss_scale=512.)", "unknown key fp16.loss_scale"),
    ("model['type'] = 'EncoderDecoder'", "model.type is not 'CLIPRC': the other models of JSeg and mmcv"),
    ("model['class_names'] = CLASSES[::-1]", "not those of voc12 in their order: 'tvmonitor' for 'aeroplane'"),
    ("model['novel_class'] = [15]", "are not the 20 classes of voc12"),
    ("model['decode_head']['seen_idx'] = [0]", "does not fit model.decode_head.seen_idx=(0,): both are base"),
    ("model['pretrained_text'] = 'other.pkl'", "pretrained_text='other.pkl' does not fit model.pretrained="),
    ("dataset = dict(train=dict(type='ADE20KDataset'))", "data.train.type='ADE20KDataset' cannot be used"),
    ("dataset = dict(train=dict(pipeline=[dict(type='Mosaic')]))", "unknown key data.train.pipeline.Mosaic"),
    ("dataset = dict(train=dict(pipeline=[dict(type='Normalize'), dict(type='Normalize')]))", "has a step twice"),
    ("dataset = dict(train=dict(pipeline=[dict(type='Resize', img_scale=(9, 9))]))", "RandomCrop.crop_size is missing"),
    ("parameter_groups_generator['custom_keys']['head']['decay_mult'] = 0", "unknown key optimizer.paramwise_cfg"),
    ("parameter_groups_generator['custom_keys']['head']['lr_mult'] = 1", "head.lr_mult=1 does not fit"),
    ("scheduler['warmup'] = None", "lr_config.warmup=None: jseg computes as the releases, with 'linear'"),
    ("optimizer = 3", "does not support item assignment"),
    ("import mmcv_of_nobody", "does not run: ModuleNotFoundError"),
]  # fmt: skip


@pytest.mark.parametrize(("added", "words"), REFUSED)
def test_what_jseg_cannot_do_is_refused_by_its_name(added: str, words: str, tmp_path: Path) -> None:
    path = write_release(tmp_path, "JSeg", "voc12", "inductive")
    path.write_text(f"{path.read_text()}\n{added}\n")
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_steps_in_another_order_and_yaml_are_refused(tmp_path: Path) -> None:
    path = write_release(tmp_path, "JSeg", "coco_stuff", "inductive")
    data = tmp_path / "project/clip_rc/datasets/zero_cocostuff_512x512.py"
    data.write_text(data.read_text() + "\ntrain_pipeline.insert(2, train_pipeline.pop(3))\n")
    with pytest.raises(UserError, match="has another order"):
        read_config(path)
    (tmp_path / "config.yaml").write_text("model: {}")
    with pytest.raises(UserError, match="YAML is not read: give the Python file"):
        read_config(tmp_path / "config.yaml")


def test_delete_and_cover_replace_a_dictionary(tmp_path: Path) -> None:
    for word in ("_delete_", "_cover_"):
        path = write_release(tmp_path, "CLIP-RC", "voc12", "inductive")
        path.write_text(f"{path.read_text()}\nevaluation = dict({word}=True)\n")
        assert read_config(path).train.eval_every == 0


def test_another_split_is_taken_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_release(tmp_path, "CLIP-RC", "voc12", "inductive")
    text = path.read_text()
    seen = [index for index in range(20) if index not in (9, 17)]
    path.write_text(f"{text}\nmodel.update(base_class={seen}, novel_class=[9, 17])\n{HEAD}['seen_idx'] = {seen}\n")
    config = read_config(path)
    classes = classes_of(config.data)
    assert classes.unseen == (9, 17) and classes.title == "voc12 (split unseen: cow, sofa)" and config.expected == {}
    assert "another split than the published one: data.split='unseen: cow, sofa'" in capsys.readouterr().out
    with pytest.raises(UserError, match="lion not among the classes of voc12"):
        classes_of(read_config(path, ["data.split=unseen: cow, lion"]).data)


def test_paths_are_looked_for_beside_and_above_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = write_release(tmp_path / "release", "JSeg", "voc12", "inductive", root="data/VOC2012")
    for folder in (tmp_path / "release", tmp_path / "here"):
        folder.mkdir(exist_ok=True)
        (folder / "ViT-B-16.pkl").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release" / "data" / "VOC2012").mkdir(parents=True)
    config = read_config(path, ["train.iterations=9"])
    assert config.model.init == str(tmp_path / "release" / "ViT-B-16.pkl") and config.train.iterations == 9
    assert config.data.root == str(tmp_path / "release" / "data" / "VOC2012")
    assert f"{config.text.embeddings} (missing)" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "here")
    assert read_config(path).model.init == str(tmp_path / "here" / "ViT-B-16.pkl")


def test_command_line_settings_in_a_config_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_release(tmp_path, "CLIP-RC", "voc12", "inductive")
    path.write_text(f"{path.read_text()}\nload_from = 'iter_20000.pth'\nwork_dir = 'work'\n")
    read_config(path)
    assert "load_from='iter_20000.pth' (--weights), work_dir='work' (--work-dir)" in capsys.readouterr().out


@pytest.mark.parametrize("release", ["JSeg", "CLIP-RC"])
@pytest.mark.parametrize(("dataset", "setting"), LOSSES)
def test_a_converted_config_is_the_same_and_short(release: str, dataset: str, setting: str, tmp_path: Path) -> None:
    path, ours = write_release(tmp_path, release, dataset, setting), tmp_path / "ours.py"
    convert_config.main([str(path), str(ours)])
    assert read_config(ours) == read_config(path)
    text = ours.read_text()
    assert "resize_box" not in text and "data = dict(" in text and len(text.splitlines()) < 30
    assert ("eval_every" in text) == (release == "JSeg")  # CLIP-RC's interval is ours
    with pytest.raises(UserError, match="--overwrite"):
        convert_config.main([str(path), str(ours)])


def test_only_released_configs_are_converted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config of JSeg or CLIP-RC"):
        convert_config.main([str(CONFIGS / "voc12_inductive.py"), str(tmp_path / "ours.py")])
