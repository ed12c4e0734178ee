"""Folders of tiny language models with the tokenizer of the tiny model, as `save_pretrained` writes them."""

import torch
from support.families import small_model
from transformers import AutoTokenizer

from minilib.models.tiny_lm import FOLDER, tiny_lm
from minilib.preferences.haystack_pairs import long_questions


def language_folder(folder, name, **changed):
    """A random model of this type in `folder`, wide enough for the tokenizer of the tiny model."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    changed = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "sliding_window": None} | changed
    model = small_model(name, **changed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def own_rows(count=4):
    """Pairs with chunks, short enough for a window of 256 tokens."""
    rows = []
    for number in range(count):
        chunks = [f"Oslo keeps silk {number}.", " Rome keeps tea.", " Lima keeps salt."]
        prompt = "".join(chunks) + " Question: What does Rome keep? Answer:"
        rows.append({"prompt": prompt, "chosen": "tea", "rejected": ["salt", f"silk {number}"], "chunks": chunks})
    return rows


def own_questions(count=6):
    """Questions about made documents that the tiny model can answer."""
    asked = long_questions(count, tiny_lm()[1])
    return [{name: row[name] for name in ("context", "question", "answer")} for row in asked]


def same_logits(first, second, tolerance=1e-5):
    """Whether two models agree on a few tokens far apart."""
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        inputs = {"input_ids": ids, "position_ids": ids * 5, "attention_mask": torch.ones_like(ids)}
        a, b = (model(**inputs).logits for model in (first, second))
    return (a - b).abs().max().item() <= tolerance
