"""Random pipelines of diffusers of a few thousand parameters, of the real classes, in folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch

with torch.device("cpu"):  # as acgd.checkpoints.hub does, before transformers loads anything
    torch.empty(0)

WORDS = [
    "a",
    "photo",
    "of",
    "dog",
    "cat",
    "horse",
    "rain",
    ",",
    "the",
    "and",
    "sound",
    "in",
    "snow",
]


def clip_tokenizer(folder: Path):
    """A CLIPTokenizer of single letters and a few words' merges."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({one: i for i, one in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )


def clip_text(seed: int, tokens: int, projected: bool = False, size: int = 16):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=tokens, hidden_size=size, intermediate_size=32, projection_dim=size,
        num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=16,
        bos_token_id=tokens - 2, eos_token_id=tokens - 1, pad_token_id=tokens - 1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def vae(seed: int = 5, channels: int = 4, **more):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    given = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": channels,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 16, "scaling_factor": 0.5,
    }  # fmt: skip
    return AutoencoderKL(**(given | more)).eval()


def unet(seed: int = 6, words: int = 16, **more):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    given = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "sample_size": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": words,
        "attention_head_dim": 4,
    }  # fmt: skip
    return UNet2DConditionModel(**(given | more)).eval()


def sd(folder: Path, prediction: str = "epsilon", **schedule) -> Path:
    """Stable Diffusion 1 (epsilon) or 2 (v_prediction)."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer(folder / "words")
    given = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
             "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae(), clip_text(7, len(tokenizer)), tokenizer, unet(),
        DDIMScheduler(prediction_type=prediction, **(given | schedule)),
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def sdxl(folder: Path) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer(folder / "words")
    network = unet(
        words=32, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16, use_linear_projection=True,
    )  # fmt: skip
    texts = clip_text(7, len(tokenizer)), clip_text(8, len(tokenizer), projected=True)
    pipe = StableDiffusionXLPipeline(
        vae(force_upcast=True), texts[0], texts[1], tokenizer, tokenizer, network,
        EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                               steps_offset=1, timestep_spacing="leading"),
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def t5(folder: Path, seed: int = 9):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    tokens = {one: i for i, one in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(seed)
    config = T5Config(vocab_size=len(tokens), d_model=16, d_kv=8, d_ff=32, num_layers=2,
                      num_heads=2, dropout_rate=0.0)  # fmt: skip
    return tokenizer, T5EncoderModel(config).eval()


def sd3(folder: Path) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer = clip_tokenizer(folder / "words")
    torch.manual_seed(10)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16,
        pooled_projection_dim=32, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        network, FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        clip_text(7, len(tokenizer), projected=True), tokenizer,
        clip_text(8, len(tokenizer), projected=True), tokenizer, None, None,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def pixart(folder: Path) -> Path:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    tokenizer, text = t5(folder)
    torch.manual_seed(11)
    network = PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, caption_channels=16, cross_attention_dim=16,
        num_embeds_ada_norm=1000, norm_type="ada_norm_single",
    )  # fmt: skip
    pipe = PixArtAlphaPipeline(tokenizer, text, vae(), network, DPMSolverMultistepScheduler())
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def unclip(folder: Path) -> Path:
    from diffusers import DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    tokenizer = clip_tokenizer(folder / "words")
    torch.manual_seed(12)
    seen = CLIPVisionConfig(hidden_size=16, intermediate_size=32, projection_dim=12, patch_size=8,
                            num_hidden_layers=2, num_attention_heads=2, image_size=16)  # fmt: skip
    network = unet(class_embed_type="projection", projection_class_embeddings_input_dim=24)
    pipe = StableUnCLIPImg2ImgPipeline(
        CLIPImageProcessor(size=16, crop_size=16), CLIPVisionModelWithProjection(seen).eval(),
        StableUnCLIPImageNormalizer(12), DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer, clip_text(7, len(tokenizer)), network,
        DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear",
                      clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        vae(),
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def ip_adapter(network, numbers: int = 12, seed: int = 13) -> dict[str, dict[str, torch.Tensor]]:
    """A plain IP-Adapter's weights for a UNet: its projection, keys and values by layer."""
    generator = torch.Generator().manual_seed(seed)
    drawn = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    width = network.config.cross_attention_dim
    projection = {"proj.weight": drawn(4 * width, numbers), "proj.bias": drawn(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers = [m for name, m in network.named_modules() if name.endswith("attn2")]
    attends = {
        f"{2 * i + 1}.to_{what}_ip.weight": drawn(layer.inner_dim, width)
        for i, layer in enumerate(layers)
        for what in "kv"
    }
    return {"image_proj": projection, "ip_adapter": attends}
