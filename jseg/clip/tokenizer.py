"""Text to token ids and back: CLIP's byte-pair encoding, with CLIP's vocabulary or one learned from a few texts.

Vocabulary file and rules: https://github.com/openai/CLIP (clip/bpe_simple_vocab_16e6.txt.gz); byte-pair encoding:
Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.

Ids: 256 bytes, the same 256 as the end of a word, one id per merge, start of text, end of text.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
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
from jseg.files import write_whole
from jseg.weights.reader import sha256_of_file

VOCABULARY_NAME = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
PRETRAINED_FOLDER = Path(__file__).resolve().parents[2] / "pretrained"
FETCH_COMMAND = "python tools/fetch_pretrained.py vocabulary"

MAX_MERGES = 49152 - 256 - 2  # CLIP's file has more lines; only the first ones are used
HEADER = "#version: 0.2"
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_REMEMBERED = 2**16  # words whose encoding is kept

# One word: a special token, an English contraction, a run of letters, one digit, or a run of other signs.
WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
SPACES = regex.compile(r"\s+")

Merge = tuple[str, str]


def _sign_of_byte() -> dict[int, str]:
    """A visible character for each byte, as vocabulary files spell them, in the order of their ids.

    Bytes that are visible in Latin-1 stand for themselves; the other 68 take the characters from 256 on.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


SIGN_OF_BYTE = _sign_of_byte()
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
        if symbols[place : place + 2] == pair:
            result.append(pair[0] + pair[1])
            place += 2
        else:
            result.append(symbols[place])
            place += 1
    return tuple(result)


class Tokenizer:
    """Byte-pair encoding with one vocabulary.

    Args:
        source: a vocabulary file, or merges in order of their rank as (left, right).

    Attributes:
        merges: the merges, tuple of (left, right).
        vocab_size: number of ids: 514 + merges.
        start_id, end_id: ids that begin and end a text, the last two of the vocabulary.

    Raises:
        UserError: the file is missing or no vocabulary, or the merges are no pairs of texts.
    """

    def __init__(self, source: str | Path | Sequence[Sequence[str]]) -> None:
        self.merges = read_vocabulary(source) if isinstance(source, (str, Path)) else _checked(source, "merges")
        signs = list(SIGN_OF_BYTE.values())
        symbols = signs + [sign + WORD_END for sign in signs] + ["".join(merge) for merge in self.merges] + [START, END]
        self.vocab_size = len(symbols)
        self.start_id, self.end_id = self.vocab_size - 2, self.vocab_size - 1
        self._symbols = symbols
        self._ids = {symbol: place for place, symbol in enumerate(symbols)}
        self._ranks = {merge: rank for rank, merge in reversed(list(enumerate(self.merges)))}  # the first one counts
        self._words: dict[str, list[int]] = {START: [self.start_id], END: [self.end_id]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the merges: two tokenizers with the same one give the same ids."""
        return hashlib.sha256("\n".join(" ".join(merge) for merge in self.merges).encode("utf-8")).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""
        return [token for word in WORD.findall(clean(text)) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        known = self._words.get(word)
        if known is None:
            symbols = _symbols(word)
            while len(symbols) > 1:
                best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, MAX_MERGES))
                if best not in self._ranks:
                    break
                symbols = _merged(symbols, best)
            known = [self._ids[symbol] for symbol in symbols]
            if len(self._words) < MAX_REMEMBERED:
                self._words[word] = known
        return known

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD, and each word is followed by a space.

        Raises:
            UserError: an id outside the vocabulary.
        """
        ids = [int(token) for token in ids]
        wrong = [token for token in ids if not 0 <= token < self.vocab_size]
        if wrong:
            raise UserError(f"token id {wrong[0]} is outside the vocabulary of {self.vocab_size}")
        text = "".join(self._symbols[token] for token in ids)
        data = b"".join(bytes([BYTE_OF_SIGN[sign]]) if sign in BYTE_OF_SIGN else sign.encode("utf-8") for sign in text)
        return data.decode("utf-8", errors="replace").replace(WORD_END, " ")

    def __call__(self, texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> np.ndarray:
        """Ids of texts, ready for a text tower.

        Args:
            texts: one text or several.
            context_length: ids per text, start and end included.
            truncate: cut texts that are too long; the end stays.

        Returns:
            int32 (N, context_length): start, text, end, zeros.

        Raises:
            UserError: a text is too long and `truncate` is off.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if context_length < 2:
            raise UserError(f"context_length={context_length}: start and end of a text alone take 2")
        rows = np.zeros((len(texts), context_length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.start_id, *self.encode(text), self.end_id]
            if len(ids) > context_length and not truncate:
                short = text if len(text) <= 60 else text[:57] + "..."
                raise UserError(f"text {short!r} takes {len(ids)} tokens where {context_length} fit: shorten it")
            if len(ids) > context_length:
                ids = [*ids[: context_length - 1], self.end_id]
            row[: len(ids)] = ids
        return rows


def _checked(merges: Sequence[Sequence[str]], where: str) -> tuple[Merge, ...]:
    """`merges` as a tuple of pairs; UserError when they are none."""
    result = []
    for number, merge in enumerate(merges, start=1):
        pair = tuple(merge) if isinstance(merge, (list, tuple)) else ()
        if len(pair) != 2 or not all(isinstance(part, str) and part and not SPACES.search(part) for part in pair):
            raise UserError(f"{where}: merge {number} is not two symbols: this is no byte-pair vocabulary")
        result.append(pair)
    if len(result) > MAX_MERGES:
        raise UserError(f"{where}: {len(result)} merges, at most {MAX_MERGES} are supported")
    return tuple(result)


def read_vocabulary(path: str | Path) -> tuple[Merge, ...]:
    """Reads the merges of a vocabulary file: gzipped text, a header line, then two symbols a line.

    Raises:
        UserError: the file is missing, truncated or of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"vocabulary {path} does not exist; `{FETCH_COMMAND}` fetches CLIP's")
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"vocabulary {path} cannot be read ({error}): fetch it again: {FETCH_COMMAND}") from error
    if HEADER not in lines[0]:
        raise UserError(f"vocabulary {path} is no byte-pair vocabulary: its first line must hold {HEADER!r}")
    lines = lines[1 : MAX_MERGES + 1]
    if lines and not lines[-1]:
        lines.pop()
    return _checked([line.split(" ") for line in lines], f"vocabulary {path}")


def write_vocabulary(path: str | Path, merges: Sequence[Sequence[str]]) -> None:
    """Writes merges as a vocabulary file like CLIP's, whole or not at all; the same merges give the same bytes.

    Raises:
        UserError: no merges, or the file cannot be written.
    """
    lines = [" ".join(merge) for merge in _checked(merges, "merges")]
    write_whole(path, gzip.compress("\n".join([HEADER, *lines, ""]).encode("utf-8"), mtime=0))


def generate_vocabulary(texts: Iterable[str], merges: int) -> tuple[Merge, ...]:
    """Learns a byte-pair vocabulary: again and again, the most frequent pair of neighbours becomes one symbol.

    Args:
        texts: what the vocabulary shall be good for; cleaned as for encoding.
        merges: how many to learn; fewer come back when every word has become one symbol.

    Returns:
        Merges for `Tokenizer` and `write_vocabulary`; ties go to the alphabetically first pair, so the same texts
        always give the same merges.
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
    """Finds CLIP's vocabulary file and checks its SHA-256.

    Args:
        path: a vocabulary file to use instead of searching; only one of CLIP's name is checked against CLIP's hash.

    Returns:
        The first of: `path`, pretrained/ beside the package, the folder named by JSEG_TEST_DATA, an installed
        open_clip or clip package.

    Raises:
        UserError: none is there, or the one found is not CLIP's.
    """
    if path and not Path(path).expanduser().is_file():
        raise UserError(f"vocabulary {path} does not exist; `{FETCH_COMMAND}` fetches CLIP's")
    folders = [PRETRAINED_FOLDER, *filter(None, [os.environ.get("JSEG_TEST_DATA")])]
    places = [Path(folder) / VOCABULARY_NAME for folder in folders] + installed_vocabularies()
    found = next((place for place in ([Path(path).expanduser()] if path else places) if place.is_file()), None)
    if found is None:
        raise UserError(f"CLIP's vocabulary {VOCABULARY_NAME} is missing: fetch it: {FETCH_COMMAND}")
    if found.name == VOCABULARY_NAME and sha256_of_file(found) != VOCABULARY_SHA256:
        raise UserError(f"vocabulary {found} is damaged (its SHA-256 differs): delete it and fetch it: {FETCH_COMMAND}")
    return found


def installed_vocabularies() -> list[Path]:
    """Where an installed open_clip or clip package would keep CLIP's vocabulary."""
    specs = [importlib.util.find_spec(name) for name in ("open_clip", "clip")]
    folders = [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
    return [Path(folder) / VOCABULARY_NAME for folder in folders]
