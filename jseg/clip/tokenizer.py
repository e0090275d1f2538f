"""Text to token ids and back: CLIP's byte-pair encoding, with CLIP's vocabulary or one learned from a few texts.

Vocabulary file and rules: https://github.com/openai/CLIP (clip/bpe_simple_vocab_16e6.txt.gz); byte-pair encoding:
Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.

Ids: 256 bytes, the same 256 as the end of a word, one id per merge, start of text, end of text.
"""

import gzip
import hashlib
import html
import importlib.util
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import regex

from jseg.errors import UserError
from jseg.files import digest_of, shipped, write_whole

VOCABULARY_NAME = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
PRETRAINED_FOLDER = shipped("pretrained")
FETCH_COMMAND = "python tools/fetch_pretrained.py vocabulary"
MAX_MERGES = 49152 - 256 - 2  # CLIP's file has more lines; only the first ones are used
HEADER = "#version: 0.2"
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

# One word: a special token, an English contraction, a run of letters, one digit, or a run of other signs.
WORD = regex.compile(r"(?i)<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
SPACES = regex.compile(r"\s+")
Merge = tuple[str, str]

# A visible character for each byte, in the order of ids: bytes that are visible in
# Latin-1 stand for themselves, the other 68 take the characters from 256 on.
_VISIBLE = [byte for byte in range(ord("!"), 256) if chr(byte).isprintable()]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
SIGN_OF_BYTE = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
BYTE_OF_SIGN = {sign: byte for byte, sign in SIGN_OF_BYTE.items()}


def clean(text: str) -> str:
    """Fixes broken Unicode, resolves HTML entities (twice, as texts from the web need), one space between words."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return SPACES.sub(" ", text.strip()).strip().lower()


def _symbols(word: str) -> tuple[str, ...]:
    """A word as byte signs, the last one marked as the end of the word."""
    signs = [SIGN_OF_BYTE[byte] for byte in word.encode("utf-8", errors="replace")]
    return (*signs[:-1], signs[-1] + WORD_END)


def _merged(symbols: tuple[str, ...], pair: Merge) -> tuple[str, ...]:
    """`symbols` with each occurrence of `pair`, from the left, made one symbol."""
    result, place = [], 0
    while place < len(symbols):
        found = symbols[place : place + 2] == pair
        result.append("".join(pair) if found else symbols[place])
        place += 2 if found else 1
    return tuple(result)


class Tokenizer:
    """Byte-pair encoding with one vocabulary: that of a file, or merges (left, right) in order of their rank."""

    def __init__(self, source: str | Path | Sequence[Sequence[str]]) -> None:
        self.merges = read_vocabulary(source) if isinstance(source, (str, Path)) else tuple(map(tuple, source))
        signs = list(SIGN_OF_BYTE.values())
        symbols = signs + [sign + WORD_END for sign in signs] + ["".join(merge) for merge in self.merges] + [START, END]
        self.vocab_size = len(symbols)
        self.start_id, self.end_id = self.vocab_size - 2, self.vocab_size - 1
        self._symbols, self._ids = symbols, {symbol: place for place, symbol in enumerate(symbols)}
        self._ranks = {merge: rank for rank, merge in reversed(list(enumerate(self.merges)))}  # the first one counts
        self._words: dict[str, list[int]] = {START: [self.start_id], END: [self.end_id]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the merges: two tokenizers with the same one give the same ids."""
        return hashlib.sha256("\n".join(" ".join(merge) for merge in self.merges).encode("utf-8")).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""
        words = WORD.findall(clean(text))
        for word in set(words) - self._words.keys():
            symbols = _symbols(word)
            while len(symbols) > 1:
                best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, math.inf))
                if best not in self._ranks:
                    break
                symbols = _merged(symbols, best)
            self._words[word] = [self._ids[symbol] for symbol in symbols]
        return [token for word in words for token in self._words[word]]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD, and each word is followed by a space."""
        text = "".join(self._symbols[token] for token in ids)
        data = b"".join(bytes([BYTE_OF_SIGN[sign]]) if sign in BYTE_OF_SIGN else sign.encode("utf-8") for sign in text)
        return data.decode("utf-8", errors="replace").replace(WORD_END, " ")

    def __call__(self, texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> np.ndarray:
        """Ids of one text or several, int32 (N, context_length): start, text, end, zeros; UserError if it is too long.

        `truncate` shortens such a text instead; its end token stays.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = np.zeros((len(texts), context_length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.start_id, *self.encode(text), self.end_id]
            if len(ids) > context_length:
                if not truncate:
                    raise UserError(f"text {text[:60]!r} takes {len(ids)} tokens where {context_length} fit")
                ids = [*ids[: context_length - 1], self.end_id]
            row[: len(ids)] = ids
        return rows


def read_vocabulary(path: str | Path) -> tuple[Merge, ...]:
    """Reads the merges of a vocabulary file: gzipped text, a header line, then two symbols a line."""
    try:
        header, *lines = gzip.decompress(Path(path).read_bytes()).decode("utf-8").removesuffix("\n").split("\n")
        merges = tuple(tuple(line.split(" ")) for line in lines[:MAX_MERGES])
        if HEADER not in header or not all(len(merge) == 2 and all(merge) for merge in merges):
            raise UserError(f"expected {HEADER!r} in its first line, then two symbols a line")
        return merges
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, UserError) as error:
        raise UserError(f"vocabulary {path} cannot be read ({error}); {FETCH_COMMAND} fetches CLIP's") from error


def write_vocabulary(path: str | Path, merges: Sequence[Sequence[str]]) -> None:
    """Writes merges as a vocabulary file like CLIP's, whole or not at all; the same merges give the same bytes."""
    text = "\n".join([HEADER, *(" ".join(merge) for merge in merges), ""])
    write_whole(path, gzip.compress(text.encode("utf-8"), mtime=0))


def generate_vocabulary(texts: Iterable[str], merges: int) -> tuple[Merge, ...]:
    """Learns a byte-pair vocabulary: again and again, the most frequent pair of neighbours becomes one symbol.

    Ties go to the alphabetically first pair. Fewer than `merges` come back when every word has become one symbol.
    """
    counts = Counter(word for text in texts for word in WORD.findall(clean(text)) if word not in (START, END))
    words = {_symbols(word): count for word, count in sorted(counts.items())}
    learned: list[Merge] = []
    while len(learned) < min(merges, MAX_MERGES):
        pairs: Counter[Merge] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = {_merged(symbols, best): count for symbols, count in words.items()}
    return tuple(learned)


def find_vocabulary(path: str | Path = "") -> Path:
    """CLIP's vocabulary file: `path`, or in pretrained/, JSEG_TEST_DATA, JSeg, an open_clip or clip package."""
    folders = [PRETRAINED_FOLDER, *filter(None, [os.environ.get("JSEG_TEST_DATA")]), "project/clip_rc"]
    for package in filter(None, map(importlib.util.find_spec, ("open_clip", "clip"))):
        folders += package.submodule_search_locations or ()
    places = [Path(path).expanduser()] if path else [Path(folder) / VOCABULARY_NAME for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"vocabulary {path or VOCABULARY_NAME} does not exist; `{FETCH_COMMAND}` fetches CLIP's")
    if found.name == VOCABULARY_NAME and digest_of(found) != VOCABULARY_SHA256:
        raise UserError(f"vocabulary {found} is damaged (its SHA-256 differs): delete it and fetch it: {FETCH_COMMAND}")
    return found
