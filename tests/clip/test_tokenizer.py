"""Token ids against the released tokenizers, and vocabularies of our own."""

import gzip
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jseg.clip import tokenizer as tokenizer_module
from jseg.clip.tokenizer import VOCABULARY_NAME, Tokenizer, find_vocabulary, generate_vocabulary, write_vocabulary
from jseg.errors import UserError

TEXTS = ["a photo of a cat", "a photo of a dog", "a photo of a cathedral", "two dogs, one café!"]


@pytest.fixture(scope="module")
def standard(test_data: Path) -> Tokenizer:
    return Tokenizer(find_vocabulary(test_data / VOCABULARY_NAME))


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer(generate_vocabulary(TEXTS, 40))


def refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(UserError, match="tokens where 77 fit"):
        tokenizer(text)


@pytest.mark.parity
def test_torch_release_ids_and_decoding(golden: Path, standard: Tokenizer) -> None:
    for path in [*(golden / "torch_release").glob("text*.npz")] or pytest.fail("no recorded texts"):
        data = np.load(path)
        texts, decoded = json.loads(str(data["strings_json"])), json.loads(str(data["decoded_json"]))
        assert np.array_equal(standard(texts, data["token_ids"].shape[1], truncate=True), data["token_ids"])
        encoded = [standard.encode(text) for text in texts]
        assert [len(ids) + 2 for ids in encoded] == data["raw_token_count"].tolist()
        assert [standard.decode(ids) for ids in encoded] == decoded
        for text, raises in zip(texts, data["raises_without_truncate"], strict=True):
            refused(standard, text) if raises else standard(text)
        templates, classes = json.loads(str(data["templates_json"])), json.loads(str(data["classes_json"]))
        ids = standard([template.format(name) for name in classes for template in templates])
        assert np.array_equal(ids.reshape(data["ensemble15_ids"].shape), data["ensemble15_ids"])


@pytest.mark.parity
def test_jittor_release_ids_errors_and_decoding(golden: Path, standard: Tokenizer) -> None:
    for path in [*(golden / "jseg_release").glob("tokenizer*.json")] or pytest.fail("no recorded tokens"):
        recorded, arrays = json.loads(path.read_text(encoding="utf-8")), np.load(path.with_suffix(".npz"))
        ids = standard(recorded["texts"])
        assert ids.dtype == np.int32 and np.array_equal(ids, arrays["ids"])
        special = (standard.start_id, standard.end_id)  # the release's decoding leaves them out
        for row, decoded in zip(arrays["ids"], recorded["decode"], strict=True):
            text = row[: int(np.argmax(row == standard.end_id))]
            assert standard.decode(token for token in text if token not in special) == decoded
        errors = [text for text in recorded["errors"] if not text.startswith("LONG(")]  # a note about the long text
        for text in (*errors, recorded["long_text"]):
            refused(standard, text)
        assert np.array_equal(standard(recorded["long_text"], truncate=True)[0], arrays["long_truncated"][0])


def test_places_in_order(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained, package, original = tmp_path / "pretrained", tmp_path / "clip", test_data / VOCABULARY_NAME
    pretrained.mkdir()
    package.mkdir()
    monkeypatch.setattr(tokenizer_module, "PRETRAINED_FOLDER", pretrained)
    monkeypatch.delenv("JSEG_TEST_DATA", raising=False)
    specs = {"clip": SimpleNamespace(submodule_search_locations=[str(package)])}
    monkeypatch.setattr(importlib.util, "find_spec", specs.get)
    with pytest.raises(UserError, match=r"does not exist.*python tools/fetch_pretrained\.py vocabulary"):
        find_vocabulary()
    shutil.copy(original, package)
    assert find_vocabulary() == package / VOCABULARY_NAME
    monkeypatch.chdir(tmp_path)
    release = tmp_path / "project" / "clip_rc"
    release.mkdir(parents=True)
    shutil.copy(original, release)
    assert find_vocabulary().resolve() == release / VOCABULARY_NAME  # run from a checkout of the Jittor release
    monkeypatch.setenv("JSEG_TEST_DATA", str(test_data))
    assert find_vocabulary() == original
    write_vocabulary(pretrained / VOCABULARY_NAME, [("a", "b</w>")])
    with pytest.raises(UserError, match="is damaged"):
        find_vocabulary()
    shutil.copy(original, pretrained)
    assert find_vocabulary() == pretrained / VOCABULARY_NAME and find_vocabulary(str(original)) == original


def test_learned_merges_by_hand() -> None:
    """aab aab ab: (a, b) three times, then (a, ab) twice, then nothing is left to merge."""
    assert generate_vocabulary(["aab aab ab"], 10) == (("a", "b</w>"), ("a", "ab</w>"))
    assert generate_vocabulary(["aab aab ab"], 1) == (("a", "b</w>"),)
    assert generate_vocabulary([], 5) == ()
    assert generate_vocabulary(["ba ba ab ab"], 1) == (("a", "b</w>"),)  # a tie goes to the alphabet


def test_learned_words_become_one_token(small: Tokenizer) -> None:
    assert len(small.encode("photo of a cat")) == 4
    assert small.vocab_size == 514 + len(small.merges)
    row = small("a photo of a cat", 8)[0]
    assert row[0] == small.start_id == small.vocab_size - 2 and row[6] == small.end_id == row.max() and row[7] == 0
    assert small.decode(small.encode("Two  DOGS, one café!")) == "two dogs , one café ! "
    assert small.decode(small.encode("日本 😀")) == "日本 😀 "  # bytes never seen in learning
    assert small([], 5).shape == (0, 5)


def test_vocabulary_file_comes_back(small: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    write_vocabulary(path, ())
    assert Tokenizer(path).merges == ()
    write_vocabulary(path, [list(merge) for merge in small.merges])
    again, content = Tokenizer(path), path.read_bytes()
    assert again.fingerprint == small.fingerprint and np.array_equal(again(TEXTS), small(TEXTS))
    assert Tokenizer(small.merges[:-1]).fingerprint != small.fingerprint
    write_vocabulary(path, small.merges)
    assert path.read_bytes() == content  # no time stamp


@pytest.mark.parametrize("content", [
    *(gzip.compress(b"#version: 0.2\na b\na c\n", mtime=0)[:-9], b"text", b""),
    gzip.compress(b"a b\nc d\n", mtime=0),  # no header
    gzip.compress(b"#version: 0.2\na b\na b c\n", mtime=0),
    gzip.compress(b"#version: 0.2\n\xff\xfe x\n", mtime=0),  # no UTF-8
])  # fmt: skip
def test_wrong_vocabulary_files_are_user_errors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.gz"):
        Tokenizer(tmp_path / "a.gz")
