"""Tests of the search for compiler, headers and Jittor."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.runtime import toolchain


@pytest.fixture
def all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is missing."""
    monkeypatch.setattr(toolchain, "jittor_version", lambda: "1.3.11.0")
    monkeypatch.setattr(toolchain, "find_compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(toolchain, "find_python_config", lambda: "/usr/bin/python3-config")
    monkeypatch.setattr(toolchain, "jittor_folder", lambda: "/venv/lib/jittor")


@pytest.mark.usefixtures("all_there")
@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("jittor_version", "pip install jittor==1.3.11.0"),
        ("find_compiler", "apt-get install g++"),
        ("find_python_config", "-dev"),
    ],
)
def test_what_is_missing_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch, missing: str, words: str) -> None:
    monkeypatch.delenv("cc_path", raising=False)
    assert toolchain.problem() == ""
    monkeypatch.setattr(toolchain, missing, lambda: "")
    assert words in toolchain.problem()
    assert "\n" not in toolchain.problem()


def test_named_compiler_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain, "jittor_version", lambda: "1.3.11.0")
    monkeypatch.setenv("cc_path", str(tmp_path / "g++"))
    assert toolchain.find_compiler() == ""
    assert str(tmp_path / "g++") in toolchain.problem()
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'g++ 14.1'\n")
    (tmp_path / "g++").chmod(0o755)
    assert toolchain.find_compiler() == str(tmp_path / "g++")
    assert toolchain.compiler_version(toolchain.find_compiler()) == "g++ 14.1"


@pytest.mark.usefixtures("all_there")
def test_blank_in_the_path_of_jittor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "jittor_folder", lambda: "/home/a b/venv/lib/jittor")
    assert "/home/a b/venv/lib/jittor" in toolchain.problem()


def test_python_config_of_the_user_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    monkeypatch.setenv("python_config_path", str(tmp_path / "config"))
    assert toolchain.find_python_config() == str(tmp_path / "config")


def test_version_of_a_compiler_that_does_not_run() -> None:
    assert toolchain.compiler_version("/dev/null/g++") == ""
