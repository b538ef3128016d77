"""Stages are told as they begin, and timed."""

import pytest

from qtools.pipeline.progress import Silent, Stopwatch


class Memory(Silent):
    def __init__(self):
        self.told = []

    def stage(self, name):
        self.told.append(name)


def test_stages_are_told_and_timed_in_order():
    listener = Memory()
    watch = Stopwatch(listener)
    with watch.stage("load"):
        assert listener.told == ["load"] and watch.seconds == {}
    with watch.stage("fuse"):
        pass
    assert list(watch.seconds) == listener.told == ["load", "fuse"]
    assert min(*watch.seconds.values(), *watch.cpu.values()) >= 0 and watch.cpu.keys() == watch.seconds.keys()


def test_a_stage_that_fails_has_no_time():
    watch = Stopwatch(Silent())
    with pytest.raises(ValueError, match="broken"), watch.stage("load"):
        raise ValueError("broken")
    assert watch.seconds == {}
