"""Encoders of transformers with random weights, saved as folders with the processor that belongs to them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "red", "blue", "green", "picture", "of", "the", "big", "small", "one", "caption", *map(str, range(10))]
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
VISION = {**TINY, "image_size": 16, "patch_size": 8}


def tokenizer(**names):
    """Words as tokens, with an end token behind each caption; it knows no length unless it is told one."""
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<mask>", "<end>", *WORDS]
    built = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>"} | names
    return PreTrainedTokenizerFast(tokenizer_object=built, **names)


def image_processor(kind: str = "clip", side: int = 16):
    import transformers

    name, size = {
        "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": side}, "crop_size": side}),
        "siglip": ("SiglipImageProcessorPil", {"size": {"height": side, "width": side}}),
        "vit": ("ViTImageProcessorPil", {"size": {"height": side, "width": side}}),
    }[kind]
    return getattr(transformers, name)(**size)


def save(folder: Path, *parts) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def clip_folder(folder: Path, positions: int = 12) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    text = {
        **TINY,
        "vocab_size": 40,
        "max_position_embeddings": positions,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }  # 2 pools at the largest id
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))
    return save(folder, model, image_processor("clip"), tokenizer())


def siglip_folder(folder: Path, positions: int = 12) -> Path:
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(2)
    text = {**TINY, "vocab_size": 40, "max_position_embeddings": positions, "projection_size": 16, "pad_token_id": 0}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    with torch.no_grad():
        model.logit_scale.fill_(4.7215)
        model.logit_bias.fill_(-10.0)
    return save(folder, model, image_processor("siglip"), tokenizer())


def vit_folder(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(3)
    return save(folder, ViTModel(ViTConfig(**VISION)), image_processor("vit"))


def bert_folder(folder: Path, positions: int = 12) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(4)
    model = BertModel(BertConfig(**TINY, vocab_size=40, max_position_embeddings=positions))
    return save(folder, model, tokenizer())


def distilbert_folder(folder: Path, positions: int = 12) -> Path:
    """A text encoder without a pooled output."""
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(5)
    config = DistilBertConfig(
        vocab_size=40, max_position_embeddings=positions, dim=16, hidden_dim=16, n_heads=2, n_layers=1
    )
    return save(folder, DistilBertModel(config), tokenizer())


def roberta_folder(folder: Path, positions: int = 14) -> Path:
    """A text encoder whose positions begin behind the padding: 14 rows hold 13 tokens."""
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(6)
    config = RobertaConfig(**TINY, vocab_size=40, max_position_embeddings=positions, pad_token_id=0)
    return save(folder, RobertaModel(config), tokenizer())
