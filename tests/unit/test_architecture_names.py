"""Parameter names of the networks written here, on made-up checkpoints with the authors' names.

Names and shapes are written down from the constructors of the authors' repositories, not from ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from qtools import architectures
from qtools.architectures import elasticvit, lookupvit, mpcvit
from qtools.core.errors import MissingPlatform
from qtools.models import families, load, resolve
from tests.unit.test_fuse_families import randomized
from tests.unit.test_releases import Entry, conv, linear, norm

architectures.register()


pytestmark = pytest.mark.usefixtures("one_thread")


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


def mpcvit_cifar() -> Iterator[Entry]:
    yield from conv("tokenizer.conv_layers.0.0", 256, 3, 4, bias=True)
    yield "classifier.class_emb", (1, 1, 256)
    yield "classifier.positional_emb", (1, 65, 256)
    for block in range(7):
        place = f"classifier.blocks.{block}"
        yield f"{place}.self_attn.alpha", (1, 4, 1, 1)
        yield from linear(f"{place}.self_attn.qkv", 768, 256, bias=False)
        yield from linear(f"{place}.self_attn.proj", 256, 256)
        yield from norm(f"{place}.pre_norm", 256, batch=False)
        yield from norm(f"{place}.norm1", 256, batch=False)
        yield from linear(f"{place}.linear1", 512, 256)
        yield from linear(f"{place}.linear2", 256, 512)
    yield from norm("classifier.norm", 256, batch=False)
    yield from linear("classifier.fc", 9, 256)


LAYOUTS = {
    "fastervit_0": fastervit_0,
    "edgevit_xxs": edgevit_xxs,
    "mobileformer_26m": mobileformer_26m,
    "mpcvit_cifar": mpcvit_cifar,
}
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


def test_the_searched_heads_come_with_the_weights(tmp_path: Path) -> None:
    """Checkpoints say of every head which kind it is; a checkpoint of the search has numbers between."""
    torch.manual_seed(0)
    alphas = [[1.0, 0.0, 0.0, 1.0], [0.25, 0.0, 1.0, 1.0]]
    searched = randomized(mpcvit.MpcVit(alphas))
    state = {key.replace("blocks.1.", "blocks.6."): value for key, value in searched.state_dict().items()}
    for block in range(1, 6):
        state |= {
            k.replace("blocks.0.", f"blocks.{block}."): v for k, v in searched.state_dict().items() if "s.0." in k
        }
    torch.save(state, tmp_path / "searched.pth")
    loaded = load("mpcvit_cifar", tmp_path / "searched.pth")
    assert loaded.spec.arguments["alphas"] == [alphas[0]] * 6 + [alphas[1]]
    runs = [block.self_attn.runs for block in loaded.module.classifier.blocks]
    assert runs[0] == ((1.0, 0, 1), (0.0, 1, 3), (1.0, 3, 4)) and runs[6] == ((None, 0, 1), (0.0, 1, 2), (1.0, 2, 4))


def test_lookup_tokens_say_how_large_pictures_are(tmp_path: Path) -> None:
    """Compressed tokens have no parameters: one file serves any number of them, asked for in its header."""
    torch.manual_seed(0)
    state = lookupvit.LookupVit(12, 3, 1, img_size=96, num_classes=5).state_dict()
    words = {"kwargs": '{"dim": 12, "heads": 3, "depth": 1, "few": 2}'}
    save_file(state, tmp_path / "small.safetensors", words)
    loaded = load("lookupvit_ti16", tmp_path / "small.safetensors")
    assert loaded.spec.input.size == (96, 96) and loaded.spec.classes == 5 and loaded.module.few == 2
    assert any("the paper's table could not be reached" in note for note in loaded.weights.notes)


def test_a_subnet_is_cut_out_of_its_supernet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = {k: torch.rand(v.shape) for k, v in _super().items()}
    torch.save({"state_dict": whole}, tmp_path / "supernet.pth.tar")
    inside = load("elasticvit_400m", tmp_path / "supernet.pth.tar").module.state_dict()
    first, stage = "feature_exactor.0.layers.0.0", "feature_exactor.3.layers.0"
    assert torch.equal(inside[f"{first}.dw_conv.weight"], whole[f"{first}.dw_conv.weight"][:48, :, 1:4, 1:4])
    assert torch.equal(inside["conv_stem.layers.0.0.dw_conv.weight"], whole["conv_stem.layers.0.0.dw_conv.weight"][:16])
    assert torch.equal(inside[f"{first}.shortcut_conv.weight"], whole[f"{first}.shortcut_conv.weight"][:32, :16])
    rows = [*range(96), *range(160, 160 + 96), *range(320, 320 + 192)]  # queries, keys, values of 6 heads
    assert torch.equal(inside[f"{stage}.qkv.weight"], whole[f"{stage}.qkv.weight"][rows, :96])
    table = whole[f"{stage}.attention_bias"].reshape(31, 31, 10)  # maps of 16 x 16 in the supernet, of 14 x 14 here
    assert torch.equal(inside[f"{stage}.attention_bias"].reshape(27, 27, 6), table[2:29, 2:29, :6])
    assert torch.equal(inside["pre_head_1.weight"], whole["pre_head_1.weight"][:, : 6 * 288])


def _super() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return elasticvit.ElasticVit(**elasticvit.SUPERNET, num_classes=7).state_dict()


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
