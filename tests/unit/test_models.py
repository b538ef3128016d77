"""Names, families, builders and the hub."""

import collections
import dataclasses
import http.server
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models.repvit import RepVit
from torch import nn

import qtools.models
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.types import InputSpec
from qtools.models import _catalogue, _hub, load, load_builder, resolve, wrap_module

pytestmark = pytest.mark.usefixtures("one_thread")


def test_importing_and_listing_models_loads_no_framework():
    code = (
        "import sys, qtools.models as m; names = [c.name for c in m.cards()]; assert len(names) >= 5, names;"
        "heavy = {'torch', 'timm'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", ["0_9", "1_0", "1_1", "1_5", "2_3"])
def test_every_size_goes_by_its_aliases_and_gets_timms_preprocessing(size):
    spec = resolve(f"m{size}")
    assert spec == resolve(f"repvit_m{size}") == resolve(f"M{size}")
    assert (spec.name, spec.family, spec.verified, spec.classes) == (f"repvit_m{size}", "repvit", True, 1000)
    data = timm.data.resolve_model_data_config(timm.create_model(spec.architecture))
    assert spec.input == InputSpec(
        data["input_size"][1:], data["mean"], data["std"], data["interpolation"], data["crop_pct"], data["crop_mode"]
    )
    assert spec.input.crop_pct == 0.95
    assert spec.pretrained[0].tag == "dist_450e_in1k" and spec.pretrained[0].top1 > spec.pretrained[1].top1
    assert {p.licence for p in spec.pretrained} == {"Apache-2.0"}


def test_mobilevit_is_fed_plain_pixels():
    """Its weights were trained on 0..1 pixels without normalisation, which no other family here does."""
    spec = resolve("mobilevit_xxs")
    assert (spec.family, spec.verified, spec.input.size) == ("mobilevit", True, (256, 256))
    assert (spec.input.mean, spec.input.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_a_tag_chooses_the_weights():
    assert resolve("m1_1.dist_300e_in1k").pretrained[0].top1 == 80.7
    assert resolve("m1_1.dist_450e_in1k") == resolve("m1_1")
    with pytest.raises(InputError, match="Did you mean dist_300e_in1k"):
        resolve("m1_1.dist_30e_in1k")


def test_any_other_timm_classifier_is_unverified():
    spec = resolve("resnet18")
    assert (spec.name, spec.family, spec.verified, spec.classes) == ("resnet18", "resnet", False, 1000)
    assert spec.pretrained[0].licence and spec.input.size == (224, 224)
    assert resolve("repvit_m1").verified is False  # the legacy sizes share the family's file, not its promise


@pytest.mark.parametrize(
    ("word", "meant"), [("repvit_m1_2", "repvit_m1_1"), ("m11", "m1_1"), ("resnet19", "resnet18"), ("", "")]
)
def test_unknown_names_say_what_is_close(word, meant):
    with pytest.raises(InputError) as error:
        resolve(word)
    assert f"unknown model '{word}'" in error.value.what and meant in error.value.what and error.value.next_step


def test_a_network_without_classes_is_no_classifier():
    with pytest.raises(InputError, match="no classifier"):
        resolve("vit_small_patch14_dinov2")


def test_a_family_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "dummy_family.py").write_text(
        "from qtools.models._spec import Family, ModelCard\n"
        "FAMILY = Family('resnet', (ModelCard('dummy', ('du',), 'resnet18', 11.7, 1.8, ()),), level='verified')\n"
    )
    monkeypatch.setattr(qtools.models, "__path__", [*qtools.models.__path__, str(tmp_path)])
    spec = resolve("du")
    assert (spec.name, spec.architecture, spec.verified) == ("dummy", "resnet18", True)
    assert "dummy" in [card.name for card in _catalogue.cards()]
    sys.modules.pop("qtools.models.dummy_family")


# ---------------------------------------------------------------- the hub


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """No cache, and a hub address where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def reference_file(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("repvit_m0_9", num_classes=12)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "repvit_m0_9.safetensors")
    return tmp_path / "repvit_m0_9.safetensors"


def test_auto_falls_back_to_the_reference_and_says_so(no_hub, reference_file):
    start = time.monotonic()
    loaded = load("m0_9", "auto", reference={"repvit_m0_9": reference_file}.get)
    assert time.monotonic() - start < 5
    assert loaded.weights.kind == "reference" and loaded.spec.classes == 12 and not loaded.module.training
    assert "hub cannot be used: no connection" in loaded.weights.notes[0] and "reference" in loaded.weights.notes[0]
    assert all(p.dtype == torch.float32 for p in loaded.module.parameters())  # the file is float16


def test_imagenet_never_falls_back(no_hub, reference_file):
    with pytest.raises(MissingPlatform, match="hub cannot be used") as error:
        load("m0_9", "imagenet", reference=lambda name: reference_file)
    assert error.value.exit_status == 3 and "--weights" in error.value.next_step


def test_auto_without_a_reference_is_an_error_with_a_next_step(no_hub):
    with pytest.raises(MissingPlatform, match="no reference checkpoint of repvit_m1_5") as error:
        load("m1_5", "auto", reference=lambda name: None)
    assert error.value.exit_status == 3 and error.value.next_step


def test_reference_never_falls_back(no_hub):
    with pytest.raises(InputError, match="no reference checkpoint"):
        load("m1_5", "reference", reference=lambda name: None)


def test_offline_mode_asks_nobody(no_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(_hub, "unreachable", lambda url: pytest.fail("asked"))
    with pytest.raises(MissingPlatform, match="offline mode"):
        load("m0_9", "imagenet")


def test_cached_weights_need_no_hub(no_hub, monkeypatch):
    torch.manual_seed(5)
    model = timm.create_model("repvit_m0_9").eval()
    folder = Path(constants.HF_HUB_CACHE) / "models--timm--repvit_m0_9.dist_450e_in1k"
    revision = "0" * 40
    for part in (f"snapshots/{revision}", "refs"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text(revision)
    save_file(model.state_dict(), folder / "snapshots" / revision / "model.safetensors")
    monkeypatch.setattr(_hub, "unreachable", lambda url: pytest.fail("asked"))
    loaded = load("m0_9", "auto")
    assert loaded.weights.kind == "imagenet" and loaded.weights.licence == "Apache-2.0" and not loaded.weights.notes
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.module(image), model(image))


def test_a_silent_hub_costs_the_timeout_and_no_more():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        start = time.monotonic()
        reason = _hub.unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/x", seconds=0.5)
    assert reason and time.monotonic() - start < 1.5


def test_a_stalled_name_lookup_is_cut_off(monkeypatch):
    def stall(*_, **__):
        time.sleep(3)
        raise OSError("at last")

    monkeypatch.setattr(socket, "getaddrinfo", stall)
    start = time.monotonic()
    assert "no answer within 0.4 s" in _hub.unreachable("http://stalled.invalid/x", seconds=0.4)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("status", "reason"), [(200, ""), (404, ""), (403, "it answered 403"), (503, "it answered 503")]
)
def test_what_counts_as_an_answer(status, reason):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert _hub.unreachable(f"http://127.0.0.1:{server.server_port}/x").startswith(reason)
        thread.join()


def test_the_probe_is_bounded_by_five_seconds():
    assert _hub.PROBE_SECONDS == 5.0


# ---------------------------------------------------------------- the user's own module


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 7)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def test_wrapping_copies_and_counts():
    module = Net().train()
    loaded = wrap_module(module, input_size=40)
    assert (loaded.spec.name, loaded.spec.family, loaded.spec.verified) == ("Net", "own", False)
    assert loaded.spec.classes == 7 and loaded.spec.input.size == (40, 40)
    assert module.training and not loaded.module.training and loaded.module is not module
    assert "training mode" in " ".join(loaded.weights.notes) and "assumed" in " ".join(loaded.weights.notes)
    assert (
        loaded.weights.kind == "builder" and loaded.weights.sha256 == wrap_module(module, input_size=9).weights.sha256
    )


def test_a_timm_module_brings_its_own_preprocessing():
    loaded = wrap_module(timm.create_model("repvit_m0_9", num_classes=3))
    assert loaded.spec.input == resolve("m0_9").input and loaded.spec.classes == 3 and not loaded.fused


def test_named_results_give_their_logits():
    class Named(Net):
        config = types.SimpleNamespace(image_size=24)

        def forward(self, x):
            return collections.OrderedDict(logits=super().forward(x), hidden_states=x)

    module = Named().eval()
    loaded = wrap_module(module)
    assert (loaded.spec.classes, loaded.spec.input.size, loaded.spec.name) == (7, (24, 24), "Named")
    images = torch.randn(2, 3, 24, 24)
    assert loaded.module(images).equal(module(images)["logits"]) and not loaded.module.training
    with pytest.raises(InputError, match="returns OrderedDict, not logits"):
        module.forward = lambda x: collections.OrderedDict(hidden_states=x)
        wrap_module(module)


def test_default_cfg_and_whole_specs_are_understood():
    module = Net()
    module.default_cfg = {"input_size": (3, 32, 48), "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "crop_pct": 0.8}
    spec = wrap_module(module).spec.input
    assert (spec.size, spec.mean, spec.crop_pct) == ((32, 48), (0.1, 0.2, 0.3), 0.8)
    given = dataclasses.replace(spec, size=(20, 20))
    assert wrap_module(module, input_size=given).spec.input == given


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A current directory with a user's modules in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(
        "import torch\n"
        "def build():\n"
        "    m = bare(); m.pretrained_cfg = {'input_size': (3, 2, 2)}; return m\n"
        "def bare(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))\n"
        "def text(): return 'no module'\n"
        "def fails(): raise KeyError('spoon')\n"
        "def maps(): return torch.nn.Conv2d(3, 4, 1)\n"
        "def diverged():\n"
        "    m = build(); m[1].weight.data[0, 0] = float('nan'); return m\n"
        "number = 3\n"
    )
    (tmp_path / "own_broken.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "own_syntax.py").write_text("def f(:\n")
    path = list(sys.path)
    yield
    assert sys.path == path
    for name in ("own_net", "own_broken", "own_syntax"):
        sys.modules.pop(name, None)


def test_builder_from_the_current_directory(project):
    loaded = load_builder("own_net:build")
    assert (loaded.spec.name, loaded.spec.classes, loaded.spec.input.size) == ("own_net", 2, (2, 2))
    assert loaded.weights.source == "own_net:build"
    assert load_builder("own_net:bare", input_size=2).spec.input.size == (2, 2)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_net", "not of the form"),
        ("own_net.py:build", "not of the form"),
        ("nowhere.net:build", "no module 'nowhere'"),
        ("own_broken:build", "needs 'a_package_that_is_not_there'"),
        ("own_syntax:build", "SyntaxError"),
        ("own_net:biuld", "Did you mean build"),
        ("own_net:number", "int, not a function"),
        ("own_net:text", "returned str, not torch.nn.Module"),
        ("own_net:fails", "raised KeyError: 'spoon'"),
        ("own_net:bare", "does not say what input"),
        ("own_net:diverged", "1.weight has 1 of 24 values that are NaN"),
    ],
)
def test_builder_errors(project, target, message):
    with pytest.raises(InputError) as error:
        load_builder(target)
    assert message in error.value.what and error.value.next_step


def test_a_missing_input_size_says_how_to_give_it(project):
    with pytest.raises(InputError, match="pretrained_cfg") as error:
        load_builder("own_net:bare")
    assert "input_size" in error.value.next_step


def test_modules_that_give_no_logits_are_refused(project):
    with pytest.raises(InputError, match=r"returns \(1, 4, 64\), not logits"):
        wrap_module(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2)), input_size=8)
    with pytest.raises(InputError, match="not a size"):
        load_builder("own_net:maps", input_size=0)


def test_a_module_that_gives_a_map_segments(project):
    spec = load_builder("own_net:maps", input_size=8).spec
    assert (spec.task, spec.classes) == ("segmentation", 4)
    assert wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), input_size=8).spec.task == "classification"


def test_a_module_that_cannot_take_the_input_is_refused():
    with pytest.raises(InputError, match="fails on an input of 1x3x5x5"):
        wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), input_size=5)


def test_repvit_objects_pass_through_fusion():
    from qtools.fuse import fuse

    loaded = wrap_module(RepVit(embed_dim=(8, 16), depth=(1, 1), num_classes=3), input_size=32)
    _, certificate = fuse(loaded.module, torch.randn(1, 3, 32, 32))
    assert certificate.blocks and not certificate.leftover
