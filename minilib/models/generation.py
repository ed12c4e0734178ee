"""Answers by any causal language model of transformers, as a plain function from prompts to strings.

    answer(prompts)_i = the tokens that greedy decoding adds to prompt i, up to an end or `max_new_tokens`

An end is any token that ends a text or a turn (`end_ids`). Prompts of unlike length share a batch by padding
on the left, which the attention mask hides, so an answer does not depend on who else was asked, nor on the token that
pads. Batches are cut by tokens: one long prompt weighs as much as many short ones. The released code of LOGO (arXiv
2410.18533) draws at temperature 0.7, and so does this one when asked to.
Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from minilib.data.facts import as_prompt
from minilib.longcontext.model_checks import own_forward
from minilib.longcontext.text_ids import prompt_ids, render_question, turn_end

PAD = 0  # a row of every embedding, and hidden by the mask


def make_answer_fn(
    model: nn.Module,
    tokenizer: Callable,
    *,
    max_new_tokens: int = 8,
    batch_tokens: int = 16_384,
    temperature: float = 0.0,
    progress: bool = False,
) -> Callable[[list], list[str]]:
    """A function from a list of prompts, texts or lists of chat messages, to as many answers without blanks around.

    batch_tokens: prompt tokens, padding included, that are computed at a time; it bounds the memory.
    temperature: 0 takes the likeliest token; above it tokens are drawn with torch's global generator.
    """
    for name, value, least in (("max_new_tokens", max_new_tokens, 1), ("batch_tokens", batch_tokens, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}: pass a larger one.")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}: 0 takes the likeliest token.")
    if (window := reach_of(model)) is not None and max_new_tokens >= window:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens:,} and the model reads {window:,} tokens, prompt included: lower it."
        )
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}

    @torch.no_grad()
    def answer(prompts: list) -> list[str]:
        ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
        _check_prompts(prompts, ids, position_table(model), max_new_tokens)
        texts, mode = [""] * len(ids), model.training
        model.eval()
        try:
            for rows in tqdm(_batches(ids, batch_tokens), desc="answers", disable=not progress):
                for i, text in zip(rows, _complete(model, tokenizer, [ids[i] for i in rows], max_new_tokens, sampling)):
                    texts[i] = text
        finally:
            model.train(mode)
        return texts

    return answer


IN_SHORT = "Answer from the text above in one short sentence: "  # else a small model of chats tells stories


def question_form(tokenizer, before: str = "") -> Callable[[str, str], str]:
    """How context and question become a prompt: in the tokenizer's chat template if it has one, else as `tiny_lm`'s.

    before: what is put before the question of a chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        return lambda context, question: as_prompt(context, question).strip()

    def in_a_chat(context: str, question: str) -> str:
        return render_question(tokenizer, [{"role": "user", "content": f"{context}\n\n{before}{question}".strip()}])

    return in_a_chat


def answer_room(tokenizer) -> int:
    """The tokens that an answer about a haystack may have: a word or two, in a chat a sentence."""
    return 24 if getattr(tokenizer, "chat_template", None) else 8


def end_ids(tokenizer, generation_config=None) -> list[int]:
    """Every id that ends an answer: the generation config's, the tokenizer's eos, and the template's end of a turn."""
    given = getattr(generation_config, "eos_token_id", None)
    found = [*given] if isinstance(given, (list, tuple)) else [given]
    found.append(getattr(tokenizer, "eos_token_id", None))
    if end := turn_end(tokenizer):
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        found.append(
            next((token for token in tokenizer.encode(end, add_special_tokens=False) if token in special), None)
        )
    return sorted({int(token) for token in found if token is not None})


def reach_of(model: nn.Module) -> int | None:
    """The tokens that a model was trained to read, as its config has them; None where it says nothing."""
    config = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    window = getattr(config, "max_position_embeddings", None)
    return window if isinstance(window, int) and window > 0 else None


def position_table(model: nn.Module) -> int | None:
    """The positions of a model that looks them up in a table, such as GPT-2 and OPT; None where they are computed."""
    try:
        return own_forward(model).table
    except (AttributeError, ValueError):  # no model of transformers, or one that nobody can measure
        return None


def _check_prompts(prompts: list, ids: list[list[int]], table: int | None, max_new_tokens: int) -> None:
    for i, one in enumerate(ids):
        if not one:
            raise ValueError(f"prompts[{i}] has no tokens, got {prompts[i]!r}: leave it out.")
        if table is not None and len(one) + max_new_tokens > table:
            raise ValueError(
                f"prompts[{i}] has {len(one):,} tokens, {max_new_tokens} more are to come, and the model's table has "
                f"{table:,} positions: shorten the prompt or lower max_new_tokens."
            )


def _batches(ids: list[list[int]], batch_tokens: int) -> list[list[int]]:
    """Row numbers, prompts of like length together, at most `batch_tokens` with padding (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        # Sorted upwards, the row that comes is the longest of its batch and sets the padded length.
        if not batches or (len(batches[-1]) + 1) * len(ids[i]) > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


def _complete(model: nn.Module, tokenizer: Callable, ids: list[list[int]], max_new_tokens: int, sampling: dict) -> list:
    """The answers to one batch of prompts, given as token ids."""
    rows, left = [torch.tensor(one) for one in ids], {"batch_first": True, "padding_side": "left"}
    inputs = pad_sequence(rows, padding_value=PAD, **left).to(model.device)  # (b, t)
    mask = pad_sequence([torch.ones_like(row) for row in rows], **left).to(model.device)
    ends = end_ids(tokenizer, getattr(model, "generation_config", None))
    # greedy, or plain sampling, whatever the model's own generation config says
    settings = {"max_new_tokens": max_new_tokens, "pad_token_id": PAD, "eos_token_id": ends or None, **sampling}
    settings |= {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    out = model.generate(inputs, attention_mask=mask, **settings)[:, inputs.shape[1] :].tolist()
    # What stands behind an end is padding, which need not be a token that decoding skips.
    told = [row[: next((t for t, token in enumerate(row) if token in ends), len(row))] for row in out]
    return [text.strip() for text in tokenizer.batch_decode(told, skip_special_tokens=True)]
