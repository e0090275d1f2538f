"""Token ids against the released tokenizers, and vocabularies of our own."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jseg.clip import tokenizer as tokenizer_module
from jseg.clip.tokenizer import (
    VOCABULARY_NAME,
    Tokenizer,
    clean,
    find_vocabulary,
    generate_vocabulary,
    read_vocabulary,
    write_vocabulary,
)
from jseg.errors import UserError

TEXTS = ["a photo of a cat", "a photo of a dog", "a photo of a cathedral", "two dogs, one café!"]


@pytest.fixture(scope="module")
def standard(test_data: Path) -> Tokenizer:
    return Tokenizer(find_vocabulary(test_data / VOCABULARY_NAME))


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer(generate_vocabulary(TEXTS, 40))


# CLIP's vocabulary.


@pytest.mark.parity
def test_torch_release_ids_and_decoding(golden: Path, standard: Tokenizer) -> None:
    files = sorted((golden / "torch_release").glob("text*.npz"))
    assert files
    for path in files:
        data = np.load(path)
        texts, decoded = json.loads(str(data["strings_json"])), json.loads(str(data["decoded_json"]))
        assert np.array_equal(standard(texts, data["token_ids"].shape[1], truncate=True), data["token_ids"])
        encoded = [standard.encode(text) for text in texts]
        assert [len(ids) + 2 for ids in encoded] == data["raw_token_count"].tolist()
        assert [standard.decode(ids) for ids in encoded] == decoded
        for text, raises in zip(texts, data["raises_without_truncate"], strict=True):
            if raises:
                with pytest.raises(UserError, match="tokens where"):
                    standard(text)
            else:
                standard(text)
        templates, classes = json.loads(str(data["templates_json"])), json.loads(str(data["classes_json"]))
        ids = standard([template.format(name) for name in classes for template in templates])
        assert np.array_equal(ids.reshape(data["ensemble15_ids"].shape), data["ensemble15_ids"])


@pytest.mark.parity
def test_jittor_release_ids_errors_and_decoding(golden: Path, standard: Tokenizer) -> None:
    files = sorted((golden / "jseg_release").glob("tokenizer*.json"))
    assert files
    for path in files:
        recorded, arrays = json.loads(path.read_text(encoding="utf-8")), np.load(path.with_suffix(".npz"))
        ids = standard(recorded["texts"])
        assert ids.dtype == np.int32 and np.array_equal(ids, arrays["ids"])
        special = (standard.start_id, standard.end_id)  # the release's decoding leaves them out
        for row, decoded in zip(arrays["ids"], recorded["decode"], strict=True):
            text = row[: int(np.argmax(row == standard.end_id))]
            assert standard.decode(token for token in text if token not in special) == decoded
        for text in recorded["errors"]:
            if not text.startswith("LONG("):  # a note about the long text below
                with pytest.raises(UserError, match="tokens where 77 fit"):
                    standard(text)
        with pytest.raises(UserError, match="tokens where 77 fit"):
            standard(recorded["long_text"])
        assert np.array_equal(standard(recorded["long_text"], truncate=True)[0], arrays["long_truncated"][0])


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_in_words(standard: Tokenizer, text: str) -> None:
    """Decoding gives the cleaned text back but for the spaces around words."""
    cleaned = clean(text).encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates are no text
    decoded = standard.decode(standard.encode(text))
    assert decoded.replace(" ", "") == cleaned.replace(" ", "")


def test_a_long_word_takes_no_time(standard: Tokenizer) -> None:
    assert len(standard.encode("xyz" * 2000)) > 1000


# Finding the vocabulary.


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No vocabulary anywhere; returns the folder that stands for pretrained/."""
    monkeypatch.setattr(tokenizer_module, "PRETRAINED_FOLDER", tmp_path / "pretrained")
    monkeypatch.delenv("JSEG_TEST_DATA", raising=False)
    (tmp_path / "pretrained").mkdir()
    return tmp_path / "pretrained"


def test_a_missing_vocabulary_names_the_command(bare_machine: Path) -> None:
    with pytest.raises(UserError, match=r"python tools/fetch_pretrained\.py vocabulary"):
        find_vocabulary()
    with pytest.raises(UserError, match="does not exist"):
        find_vocabulary(bare_machine / "other.gz")


def test_places_in_order(bare_machine: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = test_data / VOCABULARY_NAME
    monkeypatch.setenv("JSEG_TEST_DATA", str(test_data))
    assert find_vocabulary() == original
    shutil.copy(original, bare_machine / VOCABULARY_NAME)
    assert find_vocabulary() == bare_machine / VOCABULARY_NAME
    assert find_vocabulary(str(original)) == original


def test_a_damaged_standard_vocabulary_is_refused(bare_machine: Path) -> None:
    write_vocabulary(bare_machine / VOCABULARY_NAME, [("a", "b</w>")])
    for path in ("", bare_machine / VOCABULARY_NAME):
        with pytest.raises(UserError, match="is damaged"):
            find_vocabulary(path)
    write_vocabulary(bare_machine / "own.gz", [("a", "b</w>")])
    assert find_vocabulary(bare_machine / "own.gz") == bare_machine / "own.gz"


# Vocabularies of our own.


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


def test_vocabulary_file_comes_back(small: Tokenizer, tmp_path: Path) -> None:
    for merges in (small.merges, ()):
        write_vocabulary(tmp_path / "a.gz", merges)
        write_vocabulary(tmp_path / "b.gz", [list(merge) for merge in merges])
        assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
        assert read_vocabulary(tmp_path / "a.gz") == tuple(merges)
    write_vocabulary(tmp_path / "a.gz", small.merges)
    again = Tokenizer(tmp_path / "a.gz")
    assert again.fingerprint == small.fingerprint and np.array_equal(again(TEXTS), small(TEXTS))
    assert Tokenizer(small.merges[:-1]).fingerprint != small.fingerprint


def test_wrong_vocabulary_files_are_user_errors(small: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    write_vocabulary(path, small.merges)
    content = path.read_bytes()
    contents = {
        "truncated": content[: len(content) // 2],
        "no gzip": b"text",
        "empty": b"",
        "no header": gzip.compress(b"a b\nc d\n"),
        "three parts": gzip.compress(b"#version: 0.2\na b\na b c\n"),
        "no UTF-8": gzip.compress(b"#version: 0.2\n\xff\xfe x\n"),
    }
    for what, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.gz"):
            Tokenizer(path)
            pytest.fail(what)
    with pytest.raises(UserError, match="merge 1"):
        Tokenizer([("a",)])


def test_texts_that_are_too_long(small: Tokenizer) -> None:
    with pytest.raises(UserError, match="tokens where 4 fit"):
        small(["cat", "a photo of a cat"], 4)
    assert small("a photo of a cat", 4, truncate=True)[0, -1] == small.end_id
    assert small([], 5).shape == (0, 5)
