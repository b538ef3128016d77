"""SAM's decoder as written here against that of transformers, over the same weights."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._prompted import Attention, ChannelNorm, Decoder, MaskDecoder, PromptEncoder

WIDTH, SIDE, GRID = 32, 64, 4

_THEIRS = (
    (r"norm(\d)\.", r"layer_norm\1."),
    (r"norm_final_attn\.", "layer_norm_final_attn."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(mlps\.\d|head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|head)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d|head)\.layers\.1\.", r"\1.layers.0."),
    (r"point_embeddings\.", "point_embed."),
)


def as_theirs(name: str) -> str:
    for pattern, word in _THEIRS:
        name = re.sub(pattern, word, name)
    return name


@pytest.fixture(scope="module")
def pair() -> tuple[Decoder, nn.Module]:
    """The same random weights in both."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": SIDE,
            "patch_size": SIDE // GRID, "output_channels": WIDTH, "global_attn_indexes": [0], "mlp_dim": 16,
            "num_pos_feats": WIDTH // 2,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": SIDE // GRID},
        mask_decoder_config={
            "hidden_size": WIDTH, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 24,
        },
    )  # fmt: skip
    theirs = SamModel(config).eval()
    ours = Decoder(PromptEncoder(WIDTH, SIDE), MaskDecoder(WIDTH, 4, 48, 2, 24)).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = {as_theirs(name): value for name, value in ours.state_dict().items()}
    matrix = state.pop("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")
    state["shared_image_embedding.positional_embedding"] = matrix
    state["prompt_encoder.shared_embedding.positional_embedding"] = matrix
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all("vision_encoder" in n or "mask_embed" in n for n in missing), (missing, unexpected)
    return ours, theirs


@torch.inference_mode()
@pytest.mark.parametrize(
    "labels", [(1.0, -1.0), (0.0, 1.0), (-1.0, -1.0)], ids=["a click and padding", "two clicks", "nothing"]
)
def test_clicks(pair: tuple[Decoder, nn.Module], labels: tuple[float, float]) -> None:
    ours, theirs = pair
    embedding, points = torch.randn(1, WIDTH, GRID, GRID), torch.rand(1, 2, 2) * SIDE
    masks, estimates = ours(embedding, points, torch.tensor([labels]))
    # transformers pads with a point that is none where there is no box: given here, it is left out there
    known = [at for at, label in enumerate(labels) if label >= 0]
    padded = len(labels) - len(known)
    if padded == len(labels) or not padded:
        wanted = _theirs(theirs, embedding, points, torch.tensor([labels]), pad=False)
    else:
        wanted = _theirs(theirs, embedding, points[:, known], torch.tensor([labels])[:, known], pad=True)
    assert torch.allclose(masks, wanted[0], atol=1e-4 * float(wanted[0].abs().max()))
    assert torch.allclose(estimates, wanted[1], atol=1e-4 * float(wanted[1].abs().max()))


def _theirs(model: nn.Module, embedding: Tensor, points: Tensor, labels: Tensor, *, pad: bool) -> tuple[Tensor, Tensor]:
    """Masks and estimates by transformers, from the modules that SamModel joins."""
    sparse = model.prompt_encoder._embed_points(points[:, None].clone(), labels[:, None].int(), pad=pad)
    dense = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, GRID, GRID)
    return _decoded(model, embedding, sparse, dense)


def _decoded(model: nn.Module, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    parts = []
    for several in (False, True):
        answer = model.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        parts.append((answer[0][:, 0], answer[1][:, 0]))
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


@torch.inference_mode()
def test_a_box_is_its_two_corners(pair: tuple[Decoder, nn.Module]) -> None:
    ours, theirs = pair
    embedding = torch.randn(1, WIDTH, GRID, GRID)
    box = torch.tensor([[[5.0, 9.0], [40.0, 33.0]]])
    masks, _ = ours(embedding, box, torch.tensor([[2.0, 3.0]]))
    sparse = theirs.prompt_encoder._embed_boxes(box.reshape(1, 1, 4).clone())
    dense = theirs.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, GRID, GRID)
    wanted, _ = _decoded(theirs, embedding, sparse, dense)
    assert torch.allclose(masks, wanted, atol=1e-4 * float(wanted.abs().max()))


@torch.inference_mode()
def test_images_of_a_batch_do_not_meet(pair: tuple[Decoder, nn.Module]) -> None:
    ours, _ = pair
    embedding, points = torch.randn(3, WIDTH, GRID, GRID), torch.rand(3, 2, 2) * SIDE
    labels = torch.tensor([[1.0, 0.0], [2.0, 3.0], [1.0, -1.0]])
    together, alone = ours(embedding, points, labels)[0], ours(embedding[1:2], points[1:2], labels[1:2])[0]
    assert torch.allclose(together[1:2], alone, atol=1e-4)


@torch.inference_mode()
def test_norm_over_channels() -> None:
    norm = ChannelNorm(6)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 6, 3, 4)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    wanted = (x - mean) / (var + 1e-6).sqrt() * norm.weight[:, None, None]
    assert torch.allclose(norm(x), wanted, atol=1e-5)


@torch.inference_mode()
def test_attention_over_equal_values_gives_them_back() -> None:
    attention = Attention(8, 2, 2)
    value = torch.randn(1, 1, 8).expand(1, 5, 8)
    wanted = functional.linear(attention.v_proj(value), attention.out_proj.weight, attention.out_proj.bias)
    assert torch.allclose(attention(torch.randn(1, 3, 8), torch.randn(1, 5, 8), value), wanted[:, :3], atol=1e-5)
