"""Public inference: which files it takes, what it answers, what it refuses."""

import pydoc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jittor as jt
import numpy as np
import pytest
from PIL import Image

import jseg
from jseg.baselines_config import plain_clip_config
from jseg.clip.weights import ClipWeights
from jseg.config import Config, read_config, to_dict
from jseg.data import transforms
from jseg.data.class_names import SHAPES_NAMES
from jseg.engine import checkpoint
from jseg.engine.sliding_window import ImageScores
from jseg.errors import UserError
from jseg.files import shipped
from jseg.ops.device import normalise
from jseg.segmenter import Segmenter, check_class_names, config_of
from jseg.weights.reader import WeightFile, read_weight_file, write_safetensors
from tests.small_weights import small_config, write_clip, write_ours, write_released

CLASS_TOKEN = shipped("configs/shapes_class_token.py")
NAMES = ("red star", "green circle", "cat")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Class embeddings are not kept in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of ours, a released-like checkpoint without text tower, and CLIP weights that have one."""
    result = tmp_path_factory.mktemp("weights")
    write_ours(result / "ours.safetensors")
    write_released(result / "released.pth")
    write_clip(result / "clip.safetensors")
    return result


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return jseg.load_segmenter(folder / "ours.safetensors", device="cpu")


def image_of(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_importing_jseg_does_not_start_jittor() -> None:
    code = "import sys, jseg; jseg.load_segmenter, jseg.Segmenter, jseg.read_config; print('jittor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="no_such_name"):
        jseg.no_such_name  # noqa: B018


def test_weights_of_ours_alone_are_enough(segmenter: Segmenter) -> None:
    assert to_dict(segmenter.config) == to_dict(small_config())
    result = segmenter(image_of(), NAMES)
    assert result.names == NAMES and result.scores is None
    assert result.labels.shape == (50, 70) and result.labels.dtype == np.int32
    assert list(result.shares) == list(NAMES) and sum(result.shares.values()) == pytest.approx(1)
    assert segmenter(image_of(1, 1), ["cat"]).labels.tolist() == [[0]]


def test_result_is_that_of_the_evaluation_path(segmenter: Segmenter) -> None:
    image, config = image_of(), segmenter.config
    result = segmenter(image, NAMES, seen=NAMES[:1], with_scores=True)
    resized = transforms.resize_image(image, transforms.box_size((50, 70), np.inf, 64))
    pixels = normalise(resized.transpose(2, 0, 1), config.data)
    text = jt.array(segmenter.embeddings(NAMES))
    expected = ImageScores(segmenter.model, pixels, text, (0,), 0.1, config.test)
    np.testing.assert_allclose(result.scores, expected.scores((50, 70)), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(result.labels, result.scores.argmax(axis=0))
    np.testing.assert_array_equal(segmenter(image, NAMES, seen=NAMES[:1]).labels, result.labels)


@pytest.mark.parametrize(("options", "gamma"), [({}, 0.1), ({"gamma": 0.3}, 0.3)])
def test_no_calibration_unless_seen_classes_are_named(segmenter: Segmenter, options: dict, gamma: float) -> None:
    plain = segmenter(image_of(), NAMES, with_scores=True).scores
    shifted = segmenter(image_of(), NAMES, seen=("cat",), with_scores=True, **options).scores
    np.testing.assert_allclose(plain - shifted, np.float32([0, 0, gamma])[:, None, None] + 0 * plain, atol=1e-6)


def test_embeddings_are_computed_once_per_list(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    first = segmenter.embeddings(NAMES)
    assert first.shape == (3, 16) and np.abs(np.linalg.norm(first, axis=1) - 1).max() < 1e-5
    assert np.abs(segmenter.embeddings(NAMES, "a drawing of a {}.") - first).max() > 1e-3
    monkeypatch.setattr(type(segmenter.text_model), "embed", lambda *_: pytest.fail("computed again"))
    kept = first.copy()
    first[:] = 0  # what is handed out is a copy
    for names in (NAMES, [f" {NAMES[0]} ", *NAMES[1:]]):
        np.testing.assert_array_equal(segmenter.embeddings(names), kept)


def test_a_released_checkpoint_segments_like_ours(folder: Path, segmenter: Segmenter) -> None:
    expected, clip = small_config(), folder / "clip.safetensors"
    expected.model.init = ""
    assert config_of(read_weight_file(folder / "released.pth")) == Config(model=expected.model, test=expected.test)
    with pytest.raises(UserError, match="--clip"):
        jseg.load_segmenter(folder / "released.pth", device="cpu")
    released = jseg.load_segmenter(folder / "released.pth", device="cpu", clip=clip)
    notes = "\n".join(released.notes)
    assert read_weight_file(folder / "released.pth").sha256 in notes and "no computation uses" in notes
    ours = jseg.load_segmenter(folder / "ours.safetensors", device="cpu", clip=clip, config=small_config())
    scores = [item(image_of(), ["cat", "dog"], with_scores=True).scores for item in (released, ours)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-6)
    own_text = segmenter(image_of(), ["cat", "dog"], with_scores=True).scores
    assert np.abs(own_text - scores[0]).max() > 1e-3  # the text tower of --clip is used, not the file's own


def test_files_that_are_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no CLIP-RC weights .*looks like CLIP: .*, or --training-free"):
        jseg.load_segmenter(folder / "clip.safetensors")
    write_clip(tmp_path / "wide.safetensors", output_dim=32)
    with pytest.raises(UserError, match="length 32, the model needs 16"):
        jseg.load_segmenter(folder / "released.pth", "cpu", tmp_path / "wide.safetensors")(image_of(), ["cat"])
    (tmp_path / "cut.safetensors").write_bytes((folder / "ours.safetensors").read_bytes()[:-1000])
    write_safetensors(tmp_path / "part.safetensors", {"backbone.proj": np.zeros((64, 16), np.float32)}, {})
    for name in ("cut.safetensors", "part.safetensors"):
        with pytest.raises(UserError, match=name):
            jseg.load_segmenter(tmp_path / name)
    with pytest.raises(UserError, match=r"precision='half'.*choose from fp32, tf32"):
        jseg.load_segmenter(folder / "ours.safetensors", "cpu", precision="half")
    file = read_weight_file(folder / "ours.safetensors")
    meta = {key: value for key, value in file.meta.items() if key not in ("config", "tensors_sha256")}
    checkpoint.save(tmp_path / "unknown.safetensors", file.tensors, meta)
    with pytest.raises(UserError, match=r"unknown\.safetensors records no configuration: .*--config-file"):
        jseg.load_segmenter(tmp_path / "unknown.safetensors", "cpu")


FORMS = [((4, 4), "u1"), ((4, 4, 3), "f4"), ((0, 4, 3), "u1"), ((30000, 1, 3), "u1")]


@pytest.mark.parametrize(("shape", "dtype"), FORMS)
def test_images_of_another_form_are_refused(segmenter: Segmenter, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(UserError, match=r"uint8 RGB|1x30000 pixels become .*test\.short_side"):
        segmenter(np.zeros(shape, dtype), NAMES)


def test_class_names() -> None:
    names = check_class_names([" cat |kitten", "hot  dog"], [" hot dog"])
    assert names == (("cat", "hot dog"), ("cat", "kitten", "hot dog"), (0, 2, 3), (2,))
    assert check_class_names({"cat": ["kitten"], "hot dog": ()}, "hot dog") == names
    assert check_class_names("cat|kitten, hot dog", "cat", "wall, sky").seen == (0, 1)
    assert check_class_names("cat, dog", others="wall, sky").ends == (0, 1, 2, 4)
    for names, message in (
        ([], "at least one"), ("", "at least one"), (["cat", " "], "no empty"), ("cat||kitten", "no empty"),
        (["cat", "dog", "Cat"], "Cat .*twice"), ("cat, dog|cat", "cat .*twice"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            check_class_names(names)
    for threshold in (-0.1, 30, float("nan")):
        with pytest.raises(UserError, match=r"threshold .* must be 0\.\.1"):
            check_class_names("cat, dog", threshold=threshold)
    with pytest.raises(UserError, match="emu not among"):
        check_class_names(("cat", "dog"), ["emu"])
    many = [str(number) for number in range(256)]
    assert len(check_class_names(many).names) == 256
    for options in ({"others": "wall"}, {"threshold": 0.0}):
        with pytest.raises(UserError, match="at most 255"):
            check_class_names(many, **options)


def test_synonyms_others_and_threshold_against_plain_scores(segmenter: Segmenter) -> None:
    image, texts = image_of(), ["dog", "kitten", "tree", "red star", "house"]
    image[:, 35:] = 0
    plain = segmenter(image, texts, with_scores=True).scores
    scores = np.stack([plain[:2].max(axis=0), plain[2]])
    for names in ("dog|kitten, tree", {"dog": "kitten", "tree": []}):
        result = segmenter(image, names, with_scores=True, others="red star|house")
        assert result.names == ("dog", "tree")
        np.testing.assert_allclose(result.scores, scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.confidence, scores.max(axis=0), rtol=0, atol=1e-6)
        none = plain[3:].max(axis=0) > scores.max(axis=0)
        assert none.any() and not none.all()
        np.testing.assert_array_equal(result.labels, np.where(none, 255, scores.argmax(axis=0)))
    best = segmenter(image, texts[:3], with_scores=True).scores.max(axis=0)
    result = segmenter(image, "dog|kitten, tree", threshold=float(best.mean()))
    np.testing.assert_allclose(result.confidence, best, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(result.labels == 255, result.confidence < best.mean())
    assert 0.1 < result.shares["none of these"] < 0.9 and result.scores is None


def test_files_pillow_images_and_lists(segmenter: Segmenter, tmp_path: Path) -> None:
    image = image_of()
    Image.fromarray(image).save(tmp_path / "x.png")
    results = segmenter([image, Image.fromarray(image), tmp_path / "x.png", str(tmp_path / "x.png")], NAMES)
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result.labels, results[0].labels)
        np.testing.assert_array_equal(result.image, image)
    with pytest.raises(UserError, match=r"seen=\.\.\."):
        segmenter(image, NAMES, gamma=0.1)


def test_names_can_be_completed_and_help_describes_them() -> None:
    assert {*jseg.__all__} <= {*dir(jseg)}
    text = pydoc.render_doc(jseg, renderer=pydoc.plaintext)
    assert "load_segmenter(weights" in text and "class Segmentation(" in text
    assert (Path(jseg.__file__).parent / "py.typed").is_file()


def labelled(scene: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map of one of the examples."""
    files = (shipped(f"examples/{name}") for name in (f"scene_{scene}.jpg", f"masks/scene_{scene}.png"))
    return tuple(np.asarray(Image.open(file)) for file in files)


def accuracy(segmenter: Segmenter, scene: int) -> float:
    """Share of the pixels with a class whose class is found among all 20."""
    image, labels = labelled(scene)
    return float((segmenter(image, SHAPES_NAMES).labels == labels)[labels != 255].mean())


def test_the_model_that_comes_with_jseg() -> None:
    segmenter = jseg.load_segmenter("shapes", "cpu")
    assert shipped("pretrained/shapes_clip_rc.safetensors").stat().st_size <= 8e6
    note = segmenter.notes[-1]
    assert "the masks of 15 classes (red striped circle, " in note and "other names" in note
    assert "yellow striped square" not in note  # unseen
    assert np.mean([accuracy(segmenter, scene) for scene in (1, 2, 3)]) > 0.7
    assert set(np.unique(segmenter(labelled(2)[0], ["star", "triangle"]).labels)) == {0, 1}


def test_a_plain_clip_segments_without_training_or_config() -> None:
    path = shipped("pretrained/shapes_clip.safetensors")
    segmenter, config = jseg.load_segmenter(path, "cpu", training_free="class_token"), read_config(CLASS_TOKEN)
    for name in ("image_size", "patch_size", "width", "layers", "heads", "output_dim"):
        assert getattr(segmenter.config.model, name) == getattr(config.model, name)
    assert segmenter.config.text == config.text and segmenter.config.data.mean == config.data.mean
    assert np.mean([accuracy(segmenter, scene) for scene in (1, 2, 3)]) > 0.5
    assert "not trained, any names" in segmenter.notes[-1] and str(path) in segmenter.notes[-1]
    scores = segmenter(labelled(1)[0], ["circle", "green star", "square"], with_scores=True).scores
    assert np.median(np.abs(scores.sum(axis=0) - 1)) < 1e-3  # a softmax, but for interpolation at edges
    for options in ({"config": config}, {"precision": "bf16"}):
        with pytest.raises(UserError, match=r"training_free: .*leave config and precision out"):
            jseg.load_segmenter(path, "cpu", training_free="naclip", **options)
    with pytest.raises(UserError, match=r"test\.training_free='nacl'.*naclip"):
        jseg.load_segmenter(path, "cpu", training_free="nacl")
    with pytest.raises(UserError, match="without --training-free"):
        jseg.load_segmenter("shapes", "cpu", training_free="naclip")


def test_sizes_and_windows_of_the_published_clip() -> None:
    sizes = {"image_size": 224, "patch_size": 16, "image_width": 768, "image_layers": 12, "image_heads": 12,
             "context_length": 77, "vocab_size": 49408, "text_width": 512, "text_layers": 12, "text_heads": 8,
             "output_dim": 512}  # fmt: skip
    source = WeightFile({}, path=Path("ViT-B-16.pt"))
    config = plain_clip_config(ClipWeights({}, sizes, "OpenAI", source), "naclip")
    assert (config.test.short_side, config.test.crop_size, config.test.stride) == (336, (224, 224), (112, 112))
    assert config.data.mean == pytest.approx(np.array([0.48145466, 0.4578275, 0.40821073]) * 255, abs=1e-3)
    assert config.data.std == pytest.approx(np.array([0.26862954, 0.26130258, 0.27577711]) * 255, abs=1e-3)
    assert (config.model.width, config.model.heads, config.text.heads) == (768, 12, 8)
    with pytest.raises(UserError, match=r"ViT-B-16\.pt does not tell the attention heads.*--image-heads"):
        plain_clip_config(ClipWeights({}, sizes | {"image_heads": 0}, "OpenAI", source), "naclip")
