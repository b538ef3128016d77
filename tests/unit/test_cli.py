"""What every subcommand promises: help with an example, exit codes, one line for an error, JSON for programs."""

import json
import re
import signal
import sys

import pytest

import qtools
import qtools.cli.models
from qtools.cli import main
from qtools.cli._progress import Bars
from qtools.core import plugins, stop
from qtools.core.errors import CheckFailed, InputError, MissingPlatform

COMMANDS = plugins.names("qtools.cli")


@pytest.fixture
def run(capsys):
    """`run(*words)` gives (exit code, stdout, stderr)."""

    def call(*words):
        code = 0
        try:
            main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of `qtools models`."""

    def replace(function):
        monkeypatch.setattr(qtools.cli.models, "COMMAND", function)

    return replace


def test_the_commands_are_found():
    assert {"models", "quantize"} <= set(COMMANDS)


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=["qtools", *COMMANDS])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_an_example(run, words, flag):
    code, out, err = run(*words, flag)
    assert code == 0 and err == ""
    assert re.search(rf"Example:\s+qtools\s+{words[0] if words else 'quantize'}\b", out), out


def test_version(run):
    assert run("--version") == (0, f"qtools {qtools.__version__}\n", "")


@pytest.mark.parametrize("words", [[], ["quantize"]])
def test_no_words_show_the_help(run, words):
    code, out, err = run(*words)
    assert code == 2 and "Usage: qtools" in out + err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quantise"], "Did you mean 'quantize'"),
        (["quantize", "m1_1", "--wieghts", "x"], "--weights"),
        (["quantize", "m1_1", "--bits", "eight"], "--bits"),
        (["quantize", "m1_1", "extra"], "extra"),
        (["--debug"], "--debug"),
    ],
)
def test_usage_errors_end_in_two(run, words, said):
    code, out, err = run(*words)
    assert code == 2 and out == "" and said in err and "Traceback" not in err


def test_models_as_json(run):
    code, out, err = run("models", "repvit_m", "--json")
    rows = json.loads(out)
    assert code == 0 and err == ""
    assert [row["name"] for row in rows] == [
        *(f"repvit_m{size}" for size in ("0_9", "1_0", "1_1", "1_5", "2_3")),
        *(f"ssdlite_repvit_m{size}" for size in ("0_9", "1_1")),
    ]
    for row in rows[:5]:
        assert set(row) == {"name", "family", "params", "macs", "input", "task", "weights", "level", "paper", "note"}
        assert (row["family"], row["task"], row["input"]["size"]) == ("repvit", "classification", [224, 224])
        assert 1e6 < row["params"] < 1e8 < row["macs"] < 1e10
        assert {"tag", "top1", "licence", "source"} == set(row["weights"][0])


def test_models_as_a_table_loads_no_framework(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it would raise
    code, out, _ = run("models", "M1_1")
    assert code == 0 and "repvit_m1_1" in out and "repvit_m0_9" not in out


@pytest.mark.parametrize(("words", "printed"), [(["models", "vgg"], ""), (["models", "vgg", "--json"], "[]\n")])
def test_models_without_a_match(run, words, printed):
    code, out, err = run(*words)
    assert (code, out) == (0, printed)
    assert ("no model's name contains 'vgg'" in err) == (printed == "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("the name is bad", "give another"), 2, "qtools: error: the name is bad\n  next: give another\n"),
        (CheckFailed("the proof failed"), 1, "qtools: error: the proof failed\n"),
        (MissingPlatform("no SDK"), 3, "qtools: error: no SDK\n"),
        (KeyboardInterrupt(), 130, "qtools: interrupted; nothing was left behind\n"),
    ],
)
def test_errors_have_their_exit_codes(run, command, error, code, said):
    def fail() -> None:
        raise error

    command(fail)
    assert run("models") == (code, "", said)


@pytest.fixture
def own_process(monkeypatch):
    """`main()` takes the words and the signals of this process, which gets its own back afterwards."""
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    for number in (number for number, handler in before.items() if handler is signal.SIG_IGN):
        signal.signal(number, signal.SIG_DFL)  # these tests under nohup: a run leaves ignored what its parent ignores
    monkeypatch.setattr(stop, "_received", [])
    monkeypatch.setattr(sys, "argv", ["qtools", "models"])
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stop.SIGNALS)
@pytest.mark.parametrize("sdk", ["passes it on", "swallows it", "makes another error of it", "was dying"])
@pytest.mark.usefixtures("own_process")
def test_signals_end_a_run_whatever_an_sdk_makes_of_them(command, capsys, number, sdk):
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work() -> None:
        try:
            Dying() if sdk == "was dying" else signal.raise_signal(number)
        except SystemExit as end:
            if sdk == "passes it on":
                raise
            if sdk == "makes another error of it":
                raise RuntimeError("conversion failed") from end
        Bars().stage("the next stage")
        raise AssertionError("the run went on")

    command(work)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "qtools: interrupted; nothing was left behind\n"


@pytest.mark.parametrize("sdk", ["passes it on", "makes another error of it"])
@pytest.mark.usefixtures("own_process")
def test_what_a_stopped_run_leaves_is_said(command, capsys, sdk):
    kept = ["one"]

    def work() -> None:
        with stop.leaving(lambda: f"{len(kept)} things stay"):
            kept.append("two")
            try:
                signal.raise_signal(signal.SIGTERM)
            except SystemExit as end:
                if sdk == "passes it on":
                    raise
                raise RuntimeError("conversion failed") from end

    command(work)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "qtools: interrupted; 2 things stay\n"


def test_an_internal_error_is_no_trace(run, command):
    def fail() -> None:
        raise KeyError("a bug")

    command(fail)
    code, out, err = run("models")
    assert (code, out) == (70, "") and "internal error: KeyError: 'a bug'" in err and "--debug" in err
    assert "Traceback" not in err


def test_debug_shows_the_trace(monkeypatch):
    def fail(debug: bool = False) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(qtools.cli.models, "COMMAND", fail)
    with pytest.raises(KeyError):
        main(["models", "--debug"])


def test_the_command_in_the_report_is_what_main_was_given(run, monkeypatch):
    import qtools.pipeline.quantize

    def stop(config, listener):
        raise InputError(f"command: {config.command}")

    monkeypatch.setattr(qtools.pipeline.quantize, "run", stop)
    code, _, err = run("quantize", "m1_1", "--data", "/somewhere/on/this/machine/images")
    assert code == 2 and "command: qtools quantize m1_1 --data .../images\n" in err
