"""Texts and chat messages become token ids, in one place for answering, training and measuring.

    prompt    front | t_1 .. t_P                  what the model reads, whoever continues it
    answer    t_P+1 .. t_N | end                  with t_1 .. t_N the ids of prompt and answer as one text

where
    front     what the tokenizer puts before a text (<s>), once, also where the text brings it along; what it would put
              behind a text (</s>) belongs to no prompt
    end       what the chat template writes behind an answer, where the prompt ends as its questions do, else eos

Nothing is put between prompt and answer, and nothing is stripped. A token that reaches over the cut, as when two line
breaks are one token, would give training another prompt than answering has: the answer then gets the ids that it has
behind another text, and both decode to what was given. Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

FRONT = -1  # where a token begins that stands in front of the text
MARK = "\ue000"  # a character that no template writes by itself
OTHERS = ("\n", ".", ":", "a", "1", "。")  # texts that an answer may continue instead of its prompt


class TextIds(NamedTuple):
    """A prompt and its answers as ids; `begins` says where each prompt token begins, None for a slow tokenizer."""

    prompt: list[int]
    answers: list[list[int]]
    begins: list[int] | None


def prompt_ids(tokenizer, prompt: str | Sequence[Mapping]) -> list[int]:
    """The ids that a model reads before it answers; chat messages are rendered by the tokenizer's template."""
    return text_ids(tokenizer, prompt if isinstance(prompt, str) else render_question(tokenizer, prompt)).prompt


def text_ids(tokenizer, prompt: str, answers: Sequence[str] = ()) -> TextIds:
    """The ids of a prompt and of each answer as it continues the prompt, without an end."""
    ids, spans = _encode(tokenizer, prompt)
    front = _front(tokenizer, prompt, ids)
    begins = None if spans is None else [FRONT] * len(front) + [begin for begin, _ in spans]
    return TextIds(front + ids, [_continue(tokenizer, prompt, ids, answer) for answer in answers], begins)


def _encode(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
    """Ids and places of the text itself."""
    if not getattr(tokenizer, "is_fast", False):
        return list(tokenizer.encode(text, add_special_tokens=False)), None
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]


def _front(tokenizer, text: str, ids: list[int]) -> list[int]:
    whole = tokenizer.encode(text, add_special_tokens=True)
    at = next((k for k in range(len(whole) - len(ids) + 1) if ids and whole[k : k + len(ids)] == ids), 0)
    return [] if ids[:at] == whole[:at] else whole[:at]


def _continue(tokenizer, prompt: str, ids: list[int], answer: str) -> list[int]:
    for head in (prompt, *OTHERS):
        head_ids = ids if head is prompt else _encode(tokenizer, head)[0]
        both, spans = _encode(tokenizer, head + answer)
        # Equal ids are not enough: an unknown word may be one token before the cut and one that reaches over it.
        over = spans is not None and any(end > len(head) for _, end in spans[: len(head_ids)])
        if both[: len(head_ids)] == head_ids and not over:
            return both[len(head_ids) :]
    return _encode(tokenizer, answer)[0]


# Chat templates


def render_question(tokenizer, messages: Sequence[Mapping], **settings) -> str:
    """The messages as the template writes them before an answer; ValueError where there is no template or it objects.

    A last message of the assistant is left open, to be gone on with.
    """
    open_turn = "continue_final_message" if messages[-1]["role"] == "assistant" else "add_generation_prompt"
    return _render(tokenizer, messages, **{open_turn: True}, **settings)


def render_chat(tokenizer, prompt: Sequence[Mapping], answers: Sequence, **settings) -> tuple[str, list[str]]:
    """Prompt and answers, all of them messages, as texts; an answer ends as its turn does.

    Where the template writes a question in another way once it is answered, the prompt is what they have in common.
    """
    whole = [_render(tokenizer, [*prompt, *answer], **settings) for answer in answers]
    asked = shared_start([render_question(tokenizer, prompt, **settings), *whole])
    texts = [text[len(asked) :] for text in whole]
    return asked, [text.rstrip() for text in texts] if turn_end(tokenizer) else texts


def shared_start(sequences: Sequence[Sequence]) -> Sequence:
    """What all sequences begin with."""
    unlike = (k for k, parts in enumerate(zip(*sequences)) if any(part != parts[0] for part in parts))
    return sequences[0][: next(unlike, min(map(len, sequences)))]


def turn_end(tokenizer) -> str:
    """What the chat template writes behind an answer, without blanks at its end; "" where nothing."""
    return _behind_mark(tokenizer, [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]).rstrip()


def question_end(tokenizer) -> str:
    """What the chat template writes between a question and its answer; "" where nothing."""
    return _behind_mark(tokenizer, [{"role": "user", "content": MARK}], add_generation_prompt=True)


def end_ids(tokenizer, generation_config=None) -> list[int]:
    """Every id that ends an answer: the generation config's, the tokenizer's eos, and the template's end of a turn."""
    given = getattr(generation_config, "eos_token_id", None)
    found = [*given] if isinstance(given, (list, tuple)) else [given]
    found.append(getattr(tokenizer, "eos_token_id", None))
    if end := turn_end(tokenizer):
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        found.append(next((token for token in _encode(tokenizer, end)[0] if token in special), None))
    return sorted({int(token) for token in found if token is not None})


def _behind_mark(tokenizer, messages: list[dict], **settings) -> str:
    if not getattr(tokenizer, "chat_template", None):
        return ""
    try:
        _, mark, behind = _render(tokenizer, messages, **settings).rpartition(MARK)
    except ValueError:  # a template that wants other messages than these
        return ""
    return behind if mark else ""


def _render(tokenizer, messages: Sequence[Mapping], **settings) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template for messages: set tokenizer.chat_template, or give texts.")
    # A table of messages has every key in every message.
    filled = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        return tokenizer.apply_chat_template(filled, tokenize=False, **settings)
    except Exception as error:  # templates raise what they like
        cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"the chat template cannot write the messages ({cause}): give messages that it takes."
        ) from error
