"""The networks written here: size as published, parameter names, and parts against a second way to compute them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools import architectures
from qtools.architectures import edgevit, fastervit, mobileformer
from qtools.core.errors import MissingPlatform
from qtools.core.types import OpKind
from qtools.graph.capture import capture
from qtools.models import families, load, resolve
from tests.unit.test_fuse_families import randomized
from tests.unit.test_releases import Entry, conv, linear, norm

architectures.register()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def difference(expected: torch.Tensor, got: torch.Tensor) -> float:
    return ((expected - got).abs().max() / expected.abs().max()).item()


# ---------------------------------------------------------------- size

PAPER: dict[str, tuple[str, str]] = {
    # millions of parameters, billions of multiply-accumulates, as printed
    "fastervit_0": ("31.4", "3.3"),  # github.com/NVlabs/FasterViT, table of the README
    "fastervit_1": ("53.4", "5.3"),
    "fastervit_2": ("75.9", "8.7"),
    "edgevit_xxs": ("4.1", "0.6"),  # arXiv 2205.03436, table 1
    "edgevit_xs": ("6.7", "1.1"),
    "edgevit_s": ("13.1", "1.9"),  # parameters: arXiv 2212.08059, table 1; the paper itself prints 11.1
    "mobileformer_26m": ("3.2", "0.026"),  # github.com/AAboys/MobileFormer, table of the README
    "mobileformer_52m": ("3.5", "0.052"),
    "mobileformer_96m": ("4.6", "0.096"),
    "mobileformer_151m": ("7.6", "0.151"),
    "mobileformer_214m": ("9.4", "0.214"),
    "mobileformer_294m": ("11.4", "0.294"),
    "mobileformer_508m": ("14.0", "0.508"),
}
SMALLEST = ("fastervit_0", "edgevit_xxs", "mobileformer_26m")


def printed(value: float, text: str, slack: float = 0.01) -> bool:
    """Whether a count is within 1 % of a printed figure, or rounds to it."""
    unit = 10.0 ** -len(text.partition(".")[2])
    return abs(value - float(text)) <= max(slack * float(text), unit / 2)


def counted(name: str) -> tuple[float, float, float]:
    """Millions of weights; billions of products with weights, and of those between activations."""
    with torch.device("meta"):
        trained = timm.create_model(name).eval().requires_grad_(False)
        model = reparameterize_model(trained)
        image = torch.zeros(1, *trained.default_cfg["input_size"])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(image)
    total = counter.get_total_flops() / 2e9
    between = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0) / 2e9
    return sum(p.numel() for p in trained.parameters()) / 1e6, total - between, between


def normalised(name: str) -> float:
    """Billions of results of BatchNorms and dynamic ReLUs."""
    results = 0

    def seen(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        nonlocal results
        results += output.numel()

    with torch.device("meta"):
        model, image = timm.create_model(name).eval(), torch.zeros(1, 3, 224, 224)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_hook(seen)
    for block in model.features:
        for layer in (n for n in ("conv1", "conv2" if hasattr(block, "hyper2") else "conv3") if hasattr(block, n)):
            block.get_submodule(layer).register_forward_hook(seen)  # what a dynamic ReLU reads
    with torch.no_grad():
        model(image)
    return results / 1e9


@pytest.mark.parametrize(
    "name", [n if n in SMALLEST else pytest.param(n, marks=pytest.mark.all_models) for n in PAPER], ids=str
)
def test_size_as_published(name: str) -> None:
    """FasterViT's products between activations, and its position networks, are not in its authors' figures;
    Mobile-Former's figures count BatchNorm and dynamic ReLU as well. EdgeViT-XS is 1.05 % larger than it prints.
    """
    millions, products, between = counted(name)
    if name.startswith("mobileformer"):
        products += between + normalised(name)
    elif not name.startswith("fastervit"):
        products += between
    params, macs = PAPER[name]
    assert printed(millions, params, slack=0.0106 if name == "edgevit_xs" else 0.01), millions
    assert printed(products, macs), products


# ---------------------------------------------------------------- parameter names, from the authors' constructors


def mlp(place: str, width: int) -> Iterator[Entry]:
    yield from linear(f"{place}.fc1", 4 * width, width)
    yield from linear(f"{place}.fc2", width, 4 * width)


def fastervit_0() -> Iterator[Entry]:
    def token_position(place: str, width: int, tokens: int) -> Iterator[Entry]:
        yield f"{place}.relative_bias", (1, tokens, width)
        yield from linear(f"{place}.cpb_mlp.0", 512, 2)
        yield from linear(f"{place}.cpb_mlp.2", width, 512, bias=False)

    def attention(place: str, width: int, heads: int, side: int, carriers: int) -> Iterator[Entry]:
        yield from linear(f"{place}.qkv", 3 * width, width)
        yield from linear(f"{place}.proj", width, width)
        yield f"{place}.pos_emb_funct.relative_coords_table", (1, 2 * side - 1, 2 * side - 1, 2)
        yield f"{place}.pos_emb_funct.relative_position_index", (side**2, side**2)
        yield f"{place}.pos_emb_funct.relative_bias", (1, heads, side**2 + carriers, side**2 + carriers)
        yield from linear(f"{place}.pos_emb_funct.cpb_mlp.0", 512, 2)
        yield from linear(f"{place}.pos_emb_funct.cpb_mlp.2", heads, 512, bias=False)

    for index, inner in ((0, 3), (3, 64)):
        yield from conv(f"patch_embed.conv_down.{index}", 64, inner, 3)
        yield from norm(f"patch_embed.conv_down.{index + 1}", 64)
    for level, (depth, heads) in enumerate(((2, 2), (3, 4), (6, 8), (5, 16))):
        width, carries = 64 * 2**level, level == 2
        for block in range(depth):
            place = f"levels.{level}.blocks.{block}"
            if level < 2:
                for layer in ("1", "2"):
                    yield from conv(f"{place}.conv{layer}", width, width, 3, bias=True)
                    yield from norm(f"{place}.norm{layer}", width)
                continue
            yield from token_position(f"{place}.pos_embed", width, 49)
            yield from attention(f"{place}.attn", width, heads, 7, 4 if carries else 0)
            yield from mlp(f"{place}.mlp", width)
            for layer in ("norm1", "norm2", *(("hat_norm1", "hat_norm2") if carries else ())):
                yield from norm(f"{place}.{layer}", width, batch=False)
            if carries:
                yield from attention(f"{place}.hat_attn", width, heads, 4, 0)
                yield from mlp(f"{place}.hat_mlp", width)
                yield from token_position(f"{place}.hat_pos_embed", width, 16)
        if level < 3:
            yield from norm(f"levels.{level}.downsample.norm", width, batch=False)
            yield from conv(f"levels.{level}.downsample.reduction.0", 2 * width, width, 3)
        if carries:
            yield from conv(f"levels.{level}.global_tokenizer.pos_embed", width, 1, 3, bias=True)
            yield from conv(f"levels.{level}.global_tokenizer.to_global_feature.pos", width, 1, 3, bias=True)
    yield from norm("norm", 512)
    yield from linear("head", 9, 512)


def edgevit_xxs() -> Iterator[Entry]:
    inner = 3
    for stage, (width, depth, ratio) in enumerate(((36, 1, 4), (72, 1, 2), (144, 3, 2), (288, 2, 1)), 1):
        yield from conv(f"patch_embed{stage}.proj", width, inner, 4 if stage == 1 else 2, bias=True)
        yield from norm(f"patch_embed{stage}.norm", width, batch=False)
        inner = width
        for block in range(depth):
            for part in ("LocalAgg", "SelfAttn") if ratio > 1 else ("SelfAttn",):
                place, local = f"blocks{stage}.{block}.{part}", part == "LocalAgg"
                yield from conv(f"{place}.pos_embed", width, 1, 3, bias=True)
                yield from norm(f"{place}.norm1", width, batch=local)
                yield from norm(f"{place}.norm2", width, batch=local)
                if local:
                    yield from conv(f"{place}.conv1", width, width, bias=True)
                    yield from conv(f"{place}.conv2", width, width, bias=True)
                    yield from conv(f"{place}.attn", width, 1, 5, bias=True)
                    yield from conv(f"{place}.mlp.fc1", 4 * width, width, bias=True)
                    yield from conv(f"{place}.mlp.fc2", width, 4 * width, bias=True)
                    continue
                yield from linear(f"{place}.attn.qkv", 3 * width, width)
                yield from linear(f"{place}.attn.proj", width, width)
                if ratio > 1:
                    yield from conv(f"{place}.attn.LocalProp", width, 1, ratio, bias=True)
                    yield from norm(f"{place}.attn.norm", width, batch=False)
                yield from mlp(f"{place}.mlp", width)
    yield from norm("norm", 288)
    yield from linear("head", 9, 288)


def mobileformer_26m() -> Iterator[Entry]:
    def pair(place: str, out: int, inner: int, kernel: int = 1) -> Iterator[Entry]:
        yield from conv(f"{place}.0", out, inner, kernel)
        yield from norm(f"{place}.1", out)

    def hyper(place: str, channels: int) -> Iterator[Entry]:
        yield from linear(f"{place}.hyper.0", 32, 128)
        yield from linear(f"{place}.hyper.2", 2 * channels, 32)

    def into_tokens(place: str, channels: int) -> Iterator[Entry]:
        yield from linear(f"{place}.alpha.0", channels, 128)
        yield from linear(f"{place}.q", channels, 128)
        yield from linear(f"{place}.proj", 128, channels)
        yield from norm(f"{place}.layer_norm", 128, batch=False)

    yield "tokens.weight", (3, 128)
    yield from pair("stem", 8, 3, 3)
    yield from conv("features.0.conv.0", 24, 1, 3)
    yield from norm("features.0.conv.1", 24)
    yield from conv("features.0.conv.4", 12, 24 // 4)
    yield from norm("features.0.conv.5", 12)
    inner = 12
    strided = {2, 4, 7}
    for index, (out, first) in enumerate(((12, 3), (24, 6), (24, 3), (48, 6), (48, 4), (64, 6), (96, 6), (96, 6)), 1):
        place, wide = f"features.{index}", inner * first
        if index in strided:
            yield from pair(f"{place}.conv1", wide, 1, 3)
            yield from pair(f"{place}.conv2", out, wide // 4)
            yield from pair(f"{place}.conv3", 4 * out, 1, 3)
            yield from pair(f"{place}.conv4", out, 4 * out // 4)
            yield from hyper(f"{place}.hyper1", wide)
            yield from hyper(f"{place}.hyper3", 4 * out)
        else:
            yield from pair(f"{place}.conv1", wide, inner // 4)
            yield from pair(f"{place}.conv2", wide, 1, 3)
            yield from pair(f"{place}.conv3", out, wide // 4)
            yield from hyper(f"{place}.hyper1", wide)
            yield from hyper(f"{place}.hyper2", wide)
        yield from into_tokens(f"{place}.local_global", inner)
        yield from linear(f"{place}.global_block.ffn.0", 256, 128)
        yield from linear(f"{place}.global_block.ffn.2", 128, 256)
        yield from norm(f"{place}.global_block.ffn_norm", 128, batch=False)
        yield from norm(f"{place}.global_block.layer_norm", 128, batch=False)
        yield from linear(f"{place}.global_block.q", 128, 128)
        yield from linear(f"{place}.global_block.channel_mlp", 128, 128)
        yield from linear(f"{place}.global_local.k", out, 128)
        yield from linear(f"{place}.global_local.proj", out, 128)
        inner = out
    yield from into_tokens("local_global", 96)
    yield from conv("classifier.conv.1", 576, 96 // 4)
    yield from norm("classifier.conv.2", 576)
    yield from linear("classifier.fc.0", 1024, 576 + 128)
    yield from norm("classifier.fc.1", 1024)
    yield from linear("classifier.classifier.1", 9, 1024)


LAYOUTS = {"fastervit_0": fastervit_0, "edgevit_xxs": edgevit_xxs, "mobileformer_26m": mobileformer_26m}
COUNTERS = ("tracked", "index")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_authors_layout(name: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    state = {
        key: torch.zeros(shape, dtype=torch.int64) if key.endswith(COUNTERS) else torch.rand(shape, generator=generator)
        for key, shape in LAYOUTS[name]()
    }
    torch.save({"state_dict": state, "epoch": 300}, tmp_path / "release.pth.tar")
    loaded = load(name, tmp_path / "release.pth.tar")
    assert loaded.spec.classes == 9 and not loaded.fused
    inside = loaded.module.state_dict()
    assert set(inside) == set(state)
    shared = "levels.2.global_tokenizer.pos_embed."  # under a second name, which is read last
    assert all(torch.equal(inside[key], value) for key, value in state.items() if not key.startswith(shared))
    assert any("not verified against the authors' weights" in note for note in loaded.weights.notes)


def test_weights_that_nobody_has_tried_are_not_fetched() -> None:
    with pytest.raises(MissingPlatform, match="github.com/NVlabs/FasterViT") as error:
        load("fastervit_0", "imagenet")
    assert "--weights PATH" in error.value.next_step


def test_every_architecture_here_has_a_card() -> None:
    here = {name for name in timm.list_models() if _module(name).startswith("qtools.architectures.")}
    cards = {card.architecture for family in families() if family.note for card in family.cards}
    assert here == cards
    assert all(resolve(name).family == _module(name).rpartition(".")[2] for name in here)


def _module(name: str) -> str:
    return str(timm.models.model_entrypoint(name).__module__)


# ---------------------------------------------------------------- parts against a second way to compute


def test_squares_are_windows_row_by_row() -> None:
    x = picture(2, 6, 9, 5)
    squares = fastervit.into_squares(x, 3)
    assert torch.equal(squares[6 + 4].reshape(3, 3, 5), x[1, 3:6, 3:6])
    assert torch.equal(fastervit.from_squares(squares, 3, (6, 9)), x)


def test_only_carriers_cross_a_window() -> None:
    """In a block of four windows, a change of one pixel reaches the carriers of others only through the carriers' own
    attention, and no token of another window unless those carriers differ."""
    torch.manual_seed(0)
    block = randomized(fastervit.WindowBlock(16, 2, across=2))
    tokens, carriers = picture(4, 49, 16), picture(4, 4, 16)
    changed = tokens.clone()
    changed[2, 5, 0] += 1
    before, after = block(tokens, carriers), block(changed, carriers)
    assert [bool((a != b).any()) for a, b in zip(before[0], after[0], strict=True)] == [False, False, True, False]
    moved = carriers.clone()
    moved[2, 0, 0] += 1
    after = block(tokens, moved)
    assert all((a != b).any() for a, b in zip(before[0], after[0], strict=True))


def test_positions_become_constants() -> None:
    torch.manual_seed(0)
    block = randomized(fastervit.WindowBlock(16, 2, across=2))
    bias = block.attn.pos_emb_funct()
    assert bias.shape == (1, 2, 53, 53) and not bias[:, :, :4].any() and not bias[..., :4].any()
    grid = bias[0, :, 4:, 4:].reshape(2, 7, 7, 7, 7)
    assert torch.equal(grid[:, 1, 2, 3, 5], grid[:, 3, 1, 5, 4]), "a bias hangs on the distance alone"
    tokens, carriers = picture(4, 49, 16), picture(4, 4, 16)
    expected = block(tokens, carriers)
    folded = reparameterize_model(nn.Sequential(block))[0]
    assert not [name for name, _ in folded.named_parameters() if "cpb_mlp" in name]
    assert all(torch.equal(a, b) for a, b in zip(expected, folded(tokens, carriers), strict=True))


@pytest.mark.parametrize("spacing", [2, 4])
def test_spread_is_a_transposed_convolution(spacing: int) -> None:
    torch.manual_seed(0)
    layer = randomized(edgevit.Spread(6, spacing))
    x = picture(2, 6, 3, 5)
    assert difference(nn.ConvTranspose2d.forward(layer, x), layer(x)) < 1e-6


@pytest.mark.parametrize("spacing", [1, 2])
def test_tokens_that_attend_may_be_chosen_before_the_norm(spacing: int) -> None:
    """The authors normalise all tokens and take one of every r x r by an average over one pixel."""
    torch.manual_seed(0)
    block = randomized(edgevit.SelfAttn(8, 2, spacing))
    x = picture(2, 8, 4, 6)
    moved = x + block.pos_embed(x)
    tokens = moved.flatten(2).transpose(1, 2)
    image = block.norm1(tokens).transpose(1, 2).reshape(2, 8, 4, 6)
    chosen = nn.functional.avg_pool2d(image, 1, spacing)
    tokens = tokens + block.attn(chosen.flatten(2).transpose(1, 2), (chosen.shape[2], chosen.shape[3]))
    tokens = tokens + block.mlp(block.norm2(tokens))
    assert difference(tokens.transpose(1, 2).reshape(2, 8, 4, 6), block(x)) < 1e-5


def test_a_dynamic_relu_is_the_larger_of_two_lines() -> None:
    x, slopes = picture(2, 3, 4, 4), torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
    steep, flat = 2 * slopes[:, :3, None, None], 2 * slopes[:, 3:, None, None] - 1
    assert difference(torch.maximum(x * steep, x * flat), mobileformer.dynamic_relu(x, slopes)) < 1e-6


def test_the_bridge_is_attention_with_one_side_projected() -> None:
    """Against torch's attention, map and tokens of different images of a batch."""
    torch.manual_seed(0)
    bridge = randomized(mobileformer.TokensToMap(8, 12))
    x, tokens = picture(2, 8, 3, 5), picture(2, 4, 12)
    query = x.flatten(2).transpose(1, 2).reshape(2, 15, 2, 4).transpose(1, 2)
    key, value = (layer(tokens).reshape(2, 4, 2, 4).transpose(1, 2) for layer in (bridge.k, bridge.proj))
    seen = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 15, 8)
    assert difference(x + seen.transpose(1, 2).reshape(2, 8, 3, 5), bridge(x, tokens)) < 1e-6


# ---------------------------------------------------------------- the graph

REDUCED: dict[str, tuple[int, dict[str, Any]]] = {
    "fastervit_0": (224, {"depths": (1, 1, 1, 1), "dim": 8, "in_dim": 8, "heads": 1}),
    "edgevit_xxs": (64, {"depths": (1, 1, 1, 1), "dims": (12, 12, 24, 24), "head_dim": 12}),
    "mobileformer_26m": (64, {"blocks": mobileformer.SIZES["mobileformer_26m"]["blocks"][:3]}),
}


@pytest.mark.parametrize("name", REDUCED)
def test_every_operation_of_the_graph_is_known(name: str) -> None:
    size, arguments = REDUCED[name]
    torch.manual_seed(0)
    model = randomized(timm.create_model(name, num_classes=5, **arguments))
    program = capture(model, picture(1, 3, size, size), frozenset({OpKind.ATTENTION, OpKind.AVG_POOL}))
    unknown = [op.attrs["aten"] for op in program.view.ops if op.kind is OpKind.OTHER]
    assert not unknown and max(len(value.shape) for value in program.view.values.values()) <= 5
