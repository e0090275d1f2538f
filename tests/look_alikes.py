"""Config files like those of the two releases, with their `_base_` files and folders, generated from a few facts."""

from dataclasses import dataclass
from pathlib import Path

from jseg.released_configs import NAMES, UNSEEN

SCHEDULES = {"voc12": (40, 20), "coco_stuff": (80, 40)}  # thousands of iterations: whole, self-training
LOSSES = {  # mask, dice, recovery
    ("voc12", "inductive"): (100.0, 1.0, 2.0), ("voc12", "transductive"): (100.0, 1.0, 2.0),
    ("voc12", "supervised"): (100.0, 1.0, 0.0), ("coco_stuff", "inductive"): (200.0, 3.0, 50.0),
    ("coco_stuff", "transductive"): (200.0, 3.0, 50.0), ("coco_stuff", "supervised"): (100.0, 1.5, 1.0),
}  # fmt: skip
RUNS = [(release, *run) for release in ("JSeg", "CLIP-RC") for run in LOSSES]


@dataclass(frozen=True)
class Sizes:
    """What a test makes small."""

    image: int = 512
    patch: int = 16
    width: int = 768
    layers: int = 12
    output: int = 512
    prompts: int = 0  # 0 = the run's own
    regions: int = 16
    text: tuple[int, int, int, int] = (77, 512, 8, 12)  # context length, width, heads, layers
    decoder: tuple[int, int] = (3, 8)  # layers, heads
    stride: int = 426


def pipelines(dataset: str, size: int) -> str:
    """Variables and pipelines of a data file."""
    reduced = ", reduce_zero_label=True" if dataset == "voc12" else ""
    return f"""
import numpy as np
import os.path as osp
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
crop_size = ({size}, {size})
def doubled(x):
    return 2 * x
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'{reduced}),
    dict(type='Resize', img_scale=({4 * size}, {size}), ratio_range=(0.5, doubled(1.0))),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75), dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'), dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size=crop_size, pad_val=0, seg_pad_val=255), dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_semantic_seg'])]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', flip=False,
    img_scale=({4 * size}, {size}), transforms=[
        dict(type='Resize', keep_ratio=True, min_size={size}), dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg), dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])])]
"""


def data_file(release: str, dataset: str, root: str, size: int) -> str:
    """The data set before `aug` is laid over it."""
    voc = dataset == "voc12"
    kind = "ZeroPascalVOCDataset20" if voc else "ZeroCOCOStuffDataset"
    places = "img_dir='images/{0}2017', ann_dir='annotations/{0}2017', pipeline={1}_pipeline"
    if voc:
        places = "img_dir='JPEGImages', ann_dir='SegmentationClass', split='ImageSets/Segmentation/{0}.txt', "
        places += "pipeline={1}_pipeline"
    train, val = (f"type=dataset_type, data_root=data_root, {places.format(*part)}" for part in
                  (("train", "train"), ("val", "test")))  # fmt: skip
    data = f"data = dict(samples_per_gpu=4, workers_per_gpu=4, train=dict({train}), val=dict({val}), test=dict({val}))"
    if release == "JSeg":
        loading = f"batch_size={4 if voc else 16}, num_workers=8, shuffle=True, drop_last=False"
        data = f"dataset = dict(train=dict({loading}, {train}),"
        data += f" val=dict(batch_size=1, num_workers=1, shuffle=False, drop_last=False, {val}))"
    return f"dataset_type = '{kind}'\ndata_root = {root!r}\n{pipelines(dataset, size)}\n{data}\n"


def model_part(release: str, dataset: str, setting: str, sizes: Sizes, weights: str, embeddings: str) -> str:
    """Names at top level and the model of a run's own file."""
    count, unseen = len(NAMES[dataset]), UNSEEN[dataset] if setting != "supervised" else ()
    seen, style = [i for i in range(count) if i not in unseen], ", style='pytorch'" * (release == "CLIP-RC")
    context, text_width, text_heads, text_layers = sizes.text
    mask, dice, recovery = LOSSES[dataset, setting]
    loss = f"""loss_decode=dict(type='SegLoss', dec_layers=3, mask_weight={mask}, dice_weight={dice}, loss_weight=1.0,
        recovery_loss_weight={recovery}),""" * (release == "CLIP-RC")
    return f"""
img_size = {sizes.image}
in_channels = {sizes.output}
out_indices = [{sizes.layers - 1}]
region_level_bridge_size = {sizes.regions}
base_class = {seen}
novel_class = {list(unseen)}
both_class = {"base_class" if not unseen else list(range(count))}
CLASSES = {NAMES[dataset]}
exclude_key = ['prompt']
pretrained = {weights!r}
model = dict(
    type='CLIPRC', pretrained=pretrained, pretrained_text=pretrained, {"class_names=CLASSES," * (release == "JSeg")}
    backbone=dict(type='CLIPVisionTransformerWithRLB', patch_size={sizes.patch}, width={sizes.width},
        output_dim={sizes.output}, get_embeddings=True, drop_path_rate=0.1, layers={sizes.layers},
        input_resolution=img_size, out_indices=out_indices,
        num_tokens={sizes.prompts or (10 if dataset == "voc12" else 100)}, prompt_dim={sizes.width},
        total_d_layer={sizes.layers - 1}, region_level_bridge_size=region_level_bridge_size{style}),
    text_encoder=dict(type='CLIPTextEncoder', context_length={context}, embed_dim={sizes.output},
        transformer_width={text_width}, transformer_heads={text_heads}, transformer_layers={text_layers}{style}),
    decode_head=dict(type='ATMSingleHeadSeg', img_size=img_size, in_channels=in_channels, seen_idx=base_class,
        all_idx=both_class, channels=in_channels, num_layers={sizes.decoder[0]}, num_classes=len(base_class),
        num_heads={sizes.decoder[1]}, use_proj=False, use_stages=len(out_indices), {loss} embed_dims=in_channels),
    test_cfg=dict(mode='slide', crop_size=(img_size, img_size), stride=({sizes.stride}, {sizes.stride})),
    base_class=base_class, novel_class=novel_class, both_class=both_class,
    {"self_training=True," * (setting == "transductive")} ft_backbone=False, exclude_key='prompt',
    load_text_embedding={embeddings!r})
"""


CUSTOM_KEYS = """custom_keys={'backbone': dict(lr_mult=10.0), 'text_encoder': dict(lr_mult=0.0),
    'norm': dict(decay_mult=0.), 'ln': dict(decay_mult=0.), 'head': dict(lr_mult=10.)}"""
CURVE = "warmup='linear', warmup_iters=1500, warmup_ratio=1e-6, power=0.9, min_lr=1e-6"


def jseg_schedule(iterations: int) -> str:
    """The end of a run's own file."""
    return f"""
parameter_groups_generator = dict(type='CustomPrameterGroupsGenerator', {CUSTOM_KEYS})
optimizer = dict(type='CustomAdamW', lr=0.00002, betas=(0.9, 0.999), weight_decay=0.01)
max_iter = {iterations}
eval_interval = {iterations // 20}
checkpoint_interval = {iterations // 20}
scheduler = dict(type='PolyLR', max_steps=max_iter, {CURVE})
"""


CLIP_RC_SCHEDULE = f"""
lr_config = dict(policy='poly', by_epoch=False, {CURVE})
optimizer = dict(type='AdamW', lr=0.00002, weight_decay=0.01, paramwise_cfg=dict({CUSTOM_KEYS}))
data = dict(samples_per_gpu=8, workers_per_gpu=8)
"""


def clip_rc_bases(iterations: int) -> dict[str, str]:
    """Files below configs/_base_ but the data set's."""
    return {
        "default_runtime.py": """
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook', by_epoch=False)])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
cudnn_benchmark = True
find_unused_parameters = True
""",
        "models/clip_rc.py": """
in_channels = 512
model = dict(type='CLIPRC', pretrained='ViT-B-16.pt', backbone=dict(type='CLIPVisionTransformerWithRLB', layers=12),
    decode_head=dict(type='ATMSingleHeadSeg', channels=in_channels, embed_dims=in_channels // 2,
        loss_decode=dict(type='SegLoss', loss_weight=1.0)), train_cfg=dict())
""",
        f"schedules/schedule_{iterations // 1000}k.py": f"""
optimizer = dict(type='SGD', lr=0.01, weight_decay=0.0005)
optimizer_config = dict()
lr_config = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False)
runner = dict(type='IterBasedRunner', max_iters={iterations})
checkpoint_config = dict(by_epoch=False, interval={iterations // 10})
evaluation = dict(interval={iterations // 10}, metric='mIoU')
""",
    }


def write_release(
    folder: Path, release: str, dataset: str, setting: str, sizes: Sizes = Sizes(), root: str = "/data/of/others",
    weights: str = "ViT-B-16.pkl",
) -> Path:  # fmt: skip
    """Writes a run's config, as `release` lays it out below `folder`, and its bases; returns its path."""
    jseg, voc = release == "JSeg", dataset == "voc12"
    thousands = SCHEDULES[dataset][setting == "transductive"]
    project = folder / ("project/clip_rc" if jseg else "configs")
    data = project / ("datasets" if jseg else "_base_/datasets")
    data_names = ["voc12_20_512x512.py", "voc12_20_aug_512x512.py"] if voc else ["cocostuff_512x512.py"]
    data_names = ["zero_" * jseg + name for name in data_names]
    embeddings = f"{data.relative_to(folder).parent if jseg else data.relative_to(folder)}/text_embedding/"
    embeddings += f"{'voc12_single' if voc else 'coco_multi'}.npy"
    own = model_part(release, dataset, setting, sizes, weights, embeddings)
    written = {data / data_names[0]: data_file(release, dataset, root, sizes.image)}
    if voc:
        aug: dict[str, object] = {"ann_dir": "SegmentationClassAug", "split": "ImageSets/Segmentation/trainaug.txt"}
        if not jseg:
            aug = {"ann_dir": ["SegmentationClass", "SegmentationClassAug"]}
            aug["split"] = [f"ImageSets/Segmentation/{name}.txt" for name in ("train", "aug")]
        section = "dataset" if jseg else "data"
        written[data / data_names[1]] = f"_base_ = './{data_names[0]}'\n{section} = dict(train={aug})\n"
    bases = [f"../{data.relative_to(project)}/{data_names[-1]}"]
    if jseg:
        written[folder / "project/_base_/default_runtime.py"] = "logger = dict(type='RunLogger')\nlog_interval = 50"
        bases.append("../../_base_/default_runtime.py")
    else:
        others = clip_rc_bases(1000 * thousands)
        written |= {project / "_base_" / name: text for name, text in others.items()}
        bases += [f"../_base_/{name}" for name in others]
    run = f"{'fully' if setting == 'supervised' else 'zero'}_vit-b_512x512_{thousands}k"
    run += "_voc_10_16" if voc else "_coco_stuff164k_100_16"
    path = project / ("voc12" if voc else "coco") / f"clip_rc_{run}{'_st' * (setting == 'transductive')}.py"
    written[path] = f"_base_ = {bases}\n{own}{jseg_schedule(1000 * thousands) if jseg else CLIP_RC_SCHEDULE}"
    for target, text in written.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return path
