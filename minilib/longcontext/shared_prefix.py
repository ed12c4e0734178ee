"""Hidden states of 1 + M answers behind one prompt: four routes through a transformers model, one call.

`answer_hidden(model, packed)` returns h[predict], the hidden state that predicts each label. The routes agree:

    route    what the decoder is given                               where it belongs
    mask     all L tokens, an (L, L) boolean mask                    short prompts, tests, gradient checkpointing
    cache    the prompt, once; then all answers at once, which       fastest on a CPU, least memory: the mask has the
             find the prompt's keys and values in the cache          answers' rows only
    flex     all L tokens, FlexAttention's block mask                long prompts and checkpointing on a CUDA GPU
    separate 1 + M full sequences, prompt and answer, as a batch     what everybody else does, for comparison

Gradients flow through the cache, which holds the prompt's keys and values as they were computed. FlexAttention has no
backward pass on a CPU and has not yet run on a GPU. All answers ride in one sequence; a batch over 1 + M copies of the
cache costs about the same time and more memory (measured by minilib/bench/prefix.py).

An explicit mask goes with every call: without one transformers takes the jumps of synthesised positions for borders
between documents. Windows that slide over token indices know nothing of positions or answers, so models with such
layers raise an error where the layout is longer. Where angles depend on the length of the call (LongRoPE, dynamic NTK),
"auto" takes the route "separate" beyond the trained window, one answer at a time, without padding. What a model makes
of a route is measured before its first use (`model_checks`).
Taught in notebooks/10_score_a_long_answer.ipynb.
"""

import inspect

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minilib.longcontext.model_checks import checked_layout
from minilib.longcontext.packing import Packed, dense_mask, sees, stack_packed
from minilib.losses.validation import check_choice

ROUTES = ("auto", "mask", "cache", "flex", "separate")


def answer_hidden(model, packed: Packed, route: str = "auto") -> Tensor:
    """The hidden state that predicts each answer token, `(n, d)`, in the order of `packed.labels`.

    Args:
        model: a causal language model of transformers with full attention.
        packed: from `pack_answers`, or a batch from `stack_packed` (cheapest when its prompts are of similar length).
        route: "mask", "cache", "flex", "separate", or "auto": flex for a model loaded with FlexAttention, mask under
            gradient checkpointing, else cache.

    Raises:
        ValueError: one sentence, when the model cannot take the route.
    """
    return _run(model, *check_route(model, packed, route))


def check_route(model, packed: Packed, route: str = "auto") -> tuple[Packed, str]:
    """The layout as a batch and the route it takes; raises what `answer_hidden` raises and computes nothing of it."""
    batch = (packed if packed.input_ids.ndim == 2 else stack_packed([packed])).to(model.device)
    route = _resolve(model, batch, route)
    return checked_layout(model, batch, route, _run), route


def _run(model, batch: Packed, route: str) -> Tensor:
    decoder = model.get_decoder()
    if route == "separate":
        return _by_rows(decoder, batch)
    if route == "cache":
        hidden = _by_cache(decoder, batch)  # (b, L, d)
    else:
        mask = block_mask(batch.segment_ids) if route == "flex" else _for_attention(decoder, batch.attention_mask)
        hidden = _hidden(decoder, batch, slice(None), mask, use_cache=False)
    return hidden.flatten(0, 1)[batch.predict]  # (b * L, d) -> (n, d)


def _by_cache(decoder, batch: Packed) -> Tensor:
    # What all rows have of their prompts is plain causal text; what is left of longer prompts goes with the answers.
    cut = int((batch.segment_ids == 0).sum(1).min())
    everyone = torch.ones_like(batch.input_ids[:, :cut])
    cache = new_cache(decoder)
    prompt = _hidden(decoder, batch, slice(cut), everyone, use_cache=True, **cache)  # (b, cut, d)
    mask = _for_attention(decoder, dense_mask(batch.segment_ids, cut))  # (b, 1, L - cut, L)
    rest = _hidden(decoder, batch, slice(cut, None), mask, use_cache=True, **cache)
    return torch.cat([prompt, rest], 1)  # (b, L, d)


def _by_rows(decoder, batch: Packed) -> Tensor:
    """Hidden states (n, d) from one full sequence for each answer, padded on the right to the longest."""
    ids, positions, mask = separate_rows(batch)
    takes = inspect.signature(decoder.forward).parameters
    if trained_length(decoder.config) is None:
        places = {"position_ids": positions} if "position_ids" in takes else {}  # recurrent models have none
        hidden = decoder(input_ids=ids, attention_mask=mask, use_cache=False, **places).last_hidden_state
    else:
        columns = ([part[None, seen == 1] for part in (*row, seen)] for *row, seen in zip(ids, positions, mask))
        hidden = pad_sequence([_alone(decoder, *column) for column in columns], batch_first=True)
    # A label is predicted one column before its own: behind the prompt and what is said of its answer so far.
    first = torch.cat([batch.answer.new_zeros(1), batch.answer.bincount().cumsum(0)[:-1]])  # (b (1 + M),)
    said = torch.arange(len(batch.answer), device=ids.device) - first[batch.answer]  # (n,)
    prompt = (batch.segment_ids == 0).sum(1).repeat_interleave(batch.num_answers // len(batch.input_ids))
    return hidden[batch.answer, prompt[batch.answer] - 1 + said]


def _alone(decoder, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Hidden states (t, d) of one sequence, its angles those of its own length."""
    for module in decoder.modules():
        if hasattr(module, "max_seq_len_cached"):  # dynamic NTK remembers the longest call so far
            module.max_seq_len_cached = module.original_max_seq_len
    return decoder(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state[0]


def trained_length(config) -> int | None:
    """Positions from which on the rotary angles depend on the length of a call; None where they never do."""
    text = config.get_text_config()
    settings = getattr(text, "rope_parameters", None) or {}
    for one in [settings, *(part for part in settings.values() if isinstance(part, dict))]:
        if one.get("rope_type") == "dynamic":
            return text.max_position_embeddings
        if one.get("rope_type") == "longrope":
            return one.get("original_max_position_embeddings", text.max_position_embeddings)
    return None


def separate_rows(batch: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, positions and 2-D mask of the 1 + M full sequences of every prompt, `(b (1 + M), longest)` each."""
    rows = []
    for ids, positions, segments in zip(batch.input_ids, batch.position_ids, batch.segment_ids):
        for answer in range(1, int(segments.max()) + 1):
            kept = (segments == 0) | (segments == answer)
            rows.append((ids[kept], positions[kept], torch.ones_like(ids[kept])))
    ids, positions, mask = (pad_sequence(column, batch_first=True) for column in zip(*rows))
    # Positions keep counting through the padding: some kernels take one that starts again for a new document.
    beyond = (positions.amax(1, keepdim=True) + (1 - mask).cumsum(1)).clamp(max=batch.position_ids.max())
    return ids, torch.where(mask == 1, positions, beyond), mask


def block_mask(segment_ids: Tensor):
    """The layout's rule as FlexAttention's BlockMask; on a GPU it is built without ever holding the (L, L) matrix."""
    from torch.nn.attention.flex_attention import create_block_mask

    build = torch.compile(create_block_mask) if segment_ids.is_cuda else create_block_mask
    rows, length = segment_ids.shape
    return build(sees(segment_ids), rows, None, length, length, device=segment_ids.device)


def _hidden(decoder, batch: Packed, columns: slice, mask, **options) -> Tensor:
    ids, positions = batch.input_ids[:, columns], batch.position_ids[:, columns]
    return decoder(input_ids=ids, position_ids=positions, attention_mask=mask, **options).last_hidden_state


def new_cache(model) -> dict:
    """An empty cache under the name that this version of transformers takes it by."""
    from transformers import DynamicCache

    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: DynamicCache(config=model.config)}


def _for_attention(decoder, mask: Tensor) -> Tensor:
    """The mask as what is added to the scores; SDPA would make this of a boolean one in every layer, and keep each."""
    zeros = torch.zeros(mask.shape, dtype=decoder.dtype, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(decoder.dtype).min)


def _resolve(model, batch: Packed, route: str) -> str:
    """Raise for what a route cannot do; return the route that "auto" stands for."""
    check_choice("route", route, ROUTES)
    attention = model.config._attn_implementation  # no public name for it; what set_attn_implementation sets
    checkpointing = any(m.training and getattr(m, "gradient_checkpointing", False) for m in model.modules())
    trained = trained_length(model.config)
    varies = trained is not None and int(batch.position_ids[batch.segment_ids >= 0].max()) >= trained
    if route == "auto" and varies:
        route = "separate"
    elif route == "auto":
        route = "flex" if attention == "flex_attention" else "mask" if checkpointing else "cache"
    wanted = ("flex_attention",) if route == "flex" else ("sdpa", "eager")
    fault = ""
    if route == "separate":
        return route
    if attention not in wanted:
        fault = f"the model's attention {attention!r}: load the model with attn_implementation={wanted[0]!r}"
    elif route == "flex" and batch.input_ids.device.type != "cuda":
        fault = f"the model is on {batch.input_ids.device}: FlexAttention has no backward pass there, "
        fault += "load the model with attn_implementation='sdpa'"
    elif route == "cache" and checkpointing:
        fault = "the model uses gradient checkpointing, which empties the cache: choose 'mask', or 'flex' on a CUDA GPU"
    elif varies:
        fault = f"the model's rotary angles change with the length of a call beyond {trained} positions: "
        fault += "choose route 'auto' or 'separate' (share_prompt=False)"
    if fault:
        raise ValueError(f"route is {route!r} and {fault}.")
    _check_sight(model.config.get_text_config(), batch.input_ids.shape[1])
    return route


def _check_sight(config, length: int) -> None:
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    short = kinds & {"sliding_attention", "chunked_attention"} and (window or 0) < length
    other = kinds - {"full_attention", "sliding_attention", "chunked_attention"}
    if short or other:
        came = f"model has layers of {', '.join(sorted(kinds))} (window {window}) and the layout {length} tokens"
        fix = "choose a model with full attention or route 'separate' (share_prompt=False)"
        raise ValueError(f"{came}: such layers know neither positions nor answers, {fix}.")
