"""Tests of jseg/engine/signals.py."""

import os
import signal

import pytest

from jseg.engine.signals import Interrupted, StopRequest


def test_the_first_signal_asks_the_second_ctrl_c_ends(capfd: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)  # some schedulers send it again and again
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted), stop.breaks():
            pytest.fail("long work began after the signal")
    assert signal.getsignal(signal.SIGTERM) == before
    assert capfd.readouterr().err.count("finishing this step, then saving") == 1


def test_a_run_under_nohup_goes_on_when_the_terminal_is_closed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.signal_name
    finally:
        signal.signal(signal.SIGHUP, before)
