"""A model is measured before its log-probabilities are trusted: its head, its positions, each route behind a prompt.

    question                                               measured as
    is the head one matrix, and nothing behind it?         log softmax(W h) against the model's own logits
    do position ids reach the model?                       its own logits at plain positions and with a jump
    how many positions has it?                             rows of the table that plain positions look up in order
    does a route give what full sequences give?            two answers behind one prompt, each also alone in full

Names of architectures and settings have no end, so a small pack of random tokens goes through a copy of the model: in
fp32, of a few layers (one of each kind) where it is deep, its all-zero weights filled, so that what is silent at the
start shows. The pack is longer than any window that the config names and the layout exceeds. Verdicts stay with the
decoder, so a step costs nothing. Sharded or quantised weights cannot be copied that way: such a model is trusted, and a
Notice says so, unless it was measured before.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minilib.common import Notice
from minilib.longcontext.packing import Packed, pack_answers, stack_packed

SHORT, ANYWAY, JUMP = 24, 512, 4  # tokens of the small pack, windows that are always measured, gap in positions
DEEP = 8  # layers above which a copy is shortened
TOLERANCE = 2e-5  # of log-probabilities, for each nat between the likeliest and the least likely token
CHANGING = ("_token_id", "use_cache", "dtype", "_name_or_path")  # settings that trainers change and logits do not show
LOOKUPS = {  # how a table is read: the index, and how many rows there are
    nn.functional.embedding: lambda index, table, *_: (index, len(table)),
    Tensor.__getitem__: lambda table, index: (index, len(table) if table.ndim else 0),
}
for read in (torch.gather, Tensor.gather, torch.index_select, Tensor.index_select):
    LOOKUPS[read] = lambda table, dim, index, *_: (index, table.shape[dim])


class Own(NamedTuple):
    """What a model's own forward pass shows."""

    head: str = ""  # why its logits are not hidden states times the head's weight; "" when they are
    moves: bool = True  # whether position ids change the output
    table: int | None = None  # positions that fit its table; None without one


def own_forward(model: nn.Module) -> Own:
    """What the model's own forward pass shows, measured once; ValueError when it has no usable one."""
    return _once(model, "own", lambda: _measure_own(model), Own())


def check_positions_fit(model: nn.Module, target: int) -> None:
    """ValueError when prompts cannot be spread over `target` positions in this model."""
    own, kind, fault = own_forward(model), _class(model), None
    if not own.moves:
        fault = f"model is a {kind}, which takes no notice of position ids: "
    elif own.table is not None and target > own.table:
        fault = f"the position table of the {kind} has {own.table} positions: give at most that, or "
    if fault:
        plain = "train at plain positions (target_length None, on the command line 0)."
        raise ValueError(f"target_length is {target} and {fault}{plain}")


def checked_layout(model: nn.Module, batch: Packed, route: str, run: Callable) -> Packed:
    """The batch, if `run(model, batch, route)` gives what full sequences give; its padding fits the position table.

    Raises ValueError: one sentence, when this model or its position table cannot take the layout on this route.
    """
    own, kind, length = own_forward(model), _class(model), batch.input_ids.shape[1]
    limit, reason = _measured_route(model, route, run, own.moves, length)
    if limit is not None and length > limit:
        helps = route != "separate" and _measured_route(model, "separate", run, own.moves, length)[0] is None
        fix = "choose route 'separate' (share_prompt=False)" if helps else "choose another model"
        seen = f" in a layout of more than {limit} tokens" if limit else ""
        fault = f"which{seen} does not give what it gives for each answer alone ({reason})"
        raise ValueError(f"route is {route!r} and model is a {kind}, {fault}: {fix}.")
    positions, real = batch.position_ids, batch.segment_ids >= 0
    if not own.moves and bool(((positions.diff() != 1) & (batch.segment_ids[:, 1:] == 0)).any()):
        raise ValueError(f"model is a {kind}, which takes no notice of position ids: leave prompt_positions out.")
    if own.table is not None:
        if (last := int(positions[real].max())) >= own.table:
            came = f"the layout runs to position {last} and the position table of the {kind} has {own.table} positions"
            raise ValueError(f"{came}: shorten the prompt, or choose a model with a longer table.")
        batch = batch._replace(position_ids=positions.clamp(max=own.table - 1))  # padding counts on beyond the text
    return batch


# Measuring


def _once(model: nn.Module, name: str, measure: Callable, unknown):
    """The verdict on this model under its present config: kept with its decoder, or measured now."""
    decoder = _in_words(model, model.get_decoder) if hasattr(model, "get_decoder") else model
    kept = decoder.__dict__.setdefault("_measured", {})
    config = vars(model.config.get_text_config())
    key = _class(model), name, repr([item for item in config.items() if not item[0].endswith(CHANGING)])
    if key not in kept:
        plain = (type(p.data) is Tensor and p.is_floating_point() and not p.is_meta for p in model.parameters())
        whole = all(plain) and all(map(Tensor.numel, model.parameters()))
        if not whole and name == "own":
            told = "has weights that are quantised, sharded or not here, so its log-probabilities are not measured"
            warnings.warn(f"model is a {_class(model)} and {told} but trusted.", Notice, stacklevel=2)
        kept[key] = _in_words(model, measure) if whole else unknown
    return kept[key]


def _in_words(model: nn.Module, call: Callable):
    try:
        return call()
    except Exception as error:  # whatever a model's code may raise at inputs that it was not written for
        came = f"model is a {_class(model)}, whose forward pass could not be measured ({_short(error)})"
        raise ValueError(f"{came}: give a causal language model of transformers.") from error


def _measure_own(model: nn.Module) -> Own:
    with _probe(model) as probe:
        ids, seen = _tokens(probe, _room(model)), []
        for length in (len(ids) - 5, len(ids)):  # two lengths: a table has equally many rows in both
            with _Tables(length) as tables:
                hidden, logits = _full(probe, ids[:length])
            seen.append(tables.found)
        if not logits.isfinite().all():
            raise ValueError("its logits are not finite, so its weights are damaged")
        table = min(seen[0] & seen[1], default=None)
        gap = JUMP if table is None else min(JUMP, table - len(ids))
        head = probe.get_output_embeddings()
        fits = isinstance(head, nn.Linear) and head.in_features == hidden.shape[-1]
        return Own(
            head=_difference(nn.functional.linear(hidden, head.weight), logits) if fits else "another width",
            moves=gap > 0 and _moves(probe, ids, gap),
            table=table,
        )


def _moves(probe: nn.Module, ids: Tensor, gap: int) -> bool:
    """Whether a gap in the middle of the positions changes the logits, by more than a second run does."""
    try:
        plain, again, jumped = (_full(probe, ids, _positions(len(ids), len(ids) // 2, g))[1] for g in (0, 0, gap))
    except (TypeError, ValueError):  # no such argument
        return False
    return bool((jumped - plain).abs().max() > 4 * (again - plain).abs().max())


def _measured_route(model: nn.Module, route: str, run: Callable, moves: bool, length: int) -> tuple[int | None, str]:
    """Tokens up to which the route is right (None: all, 0: none), and what happens beyond."""
    windows = [window for window in _windows(model.config.get_text_config()) if window < max(length, ANYWAY + 1)]
    name = f"{route} beyond {windows}"
    return _once(model, name, lambda: _measure_route(model, route, run, moves, windows), (None, ""))


def _measure_route(model: nn.Module, route: str, run: Callable, moves: bool, windows: list) -> tuple[int | None, str]:
    short = min([_room(model), *(window - JUMP for window in windows)])
    sizes = [max(8, short), *(window + max(SHORT, window // 4) for window in windows)]
    with _probe(model) as probe:
        for size, limit in zip(sizes, [0, *windows]):
            for gap in (0, JUMP) if moves else (0,):
                try:
                    different = _compare(probe, route, run, size, gap)
                except Exception as error:
                    different = _short(error)
                if different:
                    return limit, different
    return None, ""


def _compare(probe: nn.Module, route: str, run: Callable, size: int, gap: int) -> str:
    """How the route differs from full sequences for a pack of `size` tokens; "" where it does not."""
    ids, cut = _tokens(probe, size), size - 2 - max(4, size // 8)
    # The first answer is long, so that a window that slides over it loses much of what the second one sees.
    prompt, answers = ids[:cut], (ids[cut:-2], ids[-2:])
    positions = _positions(len(prompt), len(prompt) // 2, gap)
    pack = stack_packed([pack_answers(prompt, answers, positions)]).to(probe.device)
    got = run(probe, pack, route)
    true = []
    for answer in answers:
        row = torch.cat([prompt, answer])
        own = _positions(len(row), len(prompt) // 2, gap) if gap else None
        true.append(_full(probe, row, own)[0][len(prompt) - 1 : -1])
    head = probe.get_output_embeddings() or nn.Identity()
    return _difference(head(got), head(torch.cat(true)))


def _full(probe: nn.Module, ids: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Hidden states (t, d) of the decoder and the model's own logits (t, V) for one full sequence."""
    caught = []
    hook = probe.get_decoder().register_forward_hook(lambda module, inputs, output: caught.append(output))
    inputs = {"input_ids": ids[None].to(probe.device)}
    if positions is not None:  # without a mask a jump in the positions is read as the border of two documents
        inputs |= {"position_ids": positions[None].to(probe.device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if len(ids) > ANYWAY and "logits_to_keep" in inspect.signature(probe.forward).parameters:
        inputs["logits_to_keep"] = 1  # all of them would be as large as the vocabulary times the text
    try:
        logits = probe(**inputs).logits[0]
    finally:
        hook.remove()
    if len(caught) != 1 or not hasattr(caught[0], "last_hidden_state"):
        raise ValueError("its get_decoder() is not what its hidden states come from")
    return caught[0].last_hidden_state[0], logits


def _difference(got: Tensor, true: Tensor) -> str:
    """The largest difference of two tables of logits (t, V) as log-probabilities, in words; "" for rounding."""
    got, true = (torch.log_softmax(table.double() if table.is_cpu else table.float(), -1) for table in (got, true))
    worst, spread = (got - true).abs().max().item(), (true.max() - true.min()).item()
    return "" if worst <= TOLERANCE * (1 + spread) else f"log-probabilities differ by {worst:.2g}"


class _Tables(TorchFunctionMode):
    """Finds where the positions 0 .. length - 1 are looked up: positions that fit each such table."""

    def __init__(self, length: int):
        super().__init__()
        self.length, self.found = length, set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        index, rows = LOOKUPS[function](*args) if function in LOOKUPS and len(args) > 1 else (None, 0)
        if isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32) and index.numel():
            used = index.unique()  # sorted; tokens, or routes to experts, are no run of neighbours
            if len(used) == self.length == int(used[-1] - used[0]) + 1:
                self.found.add(rows - int(used[0]))
        return function(*args, **kwargs or {})


@contextmanager
def _probe(model: nn.Module) -> Iterator[nn.Module]:
    """A small copy to measure on, in evaluation mode and at least fp32; the model itself is not touched."""
    probe = _short_copy(model).eval()
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in probe.parameters()):
        probe = probe.float()
    for module in probe.modules():  # whoever counts or changes the model's calls is not asked
        if not hasattr(module, "_hf_hook"):  # which brings inputs to the layers of a model on several GPUs
            vars(module).pop("forward", None)  # accelerate's, with its own precision
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    generator, precision = torch.Generator().manual_seed(0), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(probe.device.type, enabled=False):
            for weight in probe.parameters():
                if not weight.any():
                    weight.copy_(torch.randn(weight.shape, generator=generator) / 10)
            yield probe
    finally:
        torch.set_float32_matmul_precision(precision)


def _short_copy(model: nn.Module) -> nn.Module:
    """A copy of the model; of a deep one the first layers, as many as it takes to have one of each kind."""
    config, decoder = model.config.get_text_config(), model.get_decoder()
    depth = getattr(config, "num_hidden_layers", 0)
    for parent in decoder.modules() if depth > DEEP else ():
        for name, layers in parent.named_children():
            if isinstance(layers, nn.ModuleList) and len(layers) == depth:
                kinds = list(zip(map(type, layers), getattr(config, "layer_types", None) or [""] * depth))
                kept = max(2, *(kinds.index(kind) + 1 for kind in kinds))
                try:
                    setattr(parent, name, layers[:kept])
                    short = copy.deepcopy(model).eval()
                finally:
                    setattr(parent, name, layers)
                with suppress(Exception), torch.no_grad():  # some need all of their layers
                    short(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
                    return short
    return copy.deepcopy(model)


def _windows(config) -> list[int]:
    """Every length in the config, nested settings as well, from which on a model may compute otherwise."""
    names = "window|chunk_size|original_max|index_topk|local_attention"
    found = re.findall(rf"'\w*(?:{names})\w*': (\d+)(?=[,}}])", repr(config.to_dict()))
    return sorted(value for value in set(map(int, found)) if value >= 8)


def _tokens(probe: nn.Module, length: int) -> Tensor:
    """Random token ids (length,) that stand for nothing special, as far as the config says."""
    settings = [*vars(probe.config).items(), *vars(probe.config.get_text_config()).items()]
    named = [value for name, value in settings if re.search("token_(id|index)$", name)]
    special = {one for value in named for one in (value if isinstance(value, list) else [value])}
    entries = probe.get_input_embeddings().weight.shape[0]
    plain = torch.tensor([i for i in range(min(entries, 10_000)) if i not in special])
    return plain[torch.randint(len(plain), (length,), generator=torch.Generator().manual_seed(length))]


def _room(model: nn.Module) -> int:
    """Tokens of the small pack: fewer where the model has not as many positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return max(8, min(SHORT, positions - JUMP)) if isinstance(positions, int) else SHORT


def _positions(length: int, at: int, gap: int) -> Tensor:
    return torch.arange(length) + gap * (torch.arange(length) >= at)


def _class(model: nn.Module) -> str:
    learned = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)  # adds tokens of its own
    return type(model.get_base_model() if hasattr(model, "get_base_model") and not learned else model).__name__


def _short(error: Exception) -> str:
    text = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".:")
    return f"{type(error).__name__}: {text[:160]}"
