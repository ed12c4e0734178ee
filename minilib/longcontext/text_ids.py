"""Texts and chat messages become token ids, in one place for answering, training and measuring.

    prompt    front | t_1 .. t_P                  what the model reads, whoever continues it
    answer    t_P+1 .. t_N | end                  with t_1 .. t_N the ids of prompt and answer as one text

where
    front     what the tokenizer puts before a text (<s>), once, also where the text brings it along; what it would put
              behind a text (</s>) belongs to no prompt
    end       what the chat template writes behind an answer, where the prompt ends as its questions do, else eos

Nothing is put between prompt and answer, and nothing is stripped. Where a token reaches over the cut, as when two line
breaks are one token, the answer gets the ids that it has behind another text, and both decode to what was given.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

FRONT = -1  # where a token begins that stands in front of the text
MARK = "\ue000"  # a character that no template writes by itself
PROBE, REACH = 64, 256  # characters that show what is put around a text, and that an answer's tokens may look back on
PLAIN = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
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
    fast = getattr(tokenizer, "is_fast", False)
    found = tokenizer(prompt, **PLAIN, return_offsets_mapping=True) if fast else None
    ids = found["input_ids"] if fast else _plain(tokenizer, prompt)
    front = _front(tokenizer, prompt, ids)
    begins = [FRONT] * len(front) + [begin for begin, _ in found["offset_mapping"]] if fast else None
    heads = [_tail(tokenizer, prompt, ids), *((other, None) for other in OTHERS)]
    return TextIds(front + ids, [_continue(tokenizer, heads, answer) for answer in answers], begins)


def _plain(tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _front(tokenizer, text: str, ids: list[int]) -> list[int]:
    few = _plain(tokenizer, text[:PROBE])
    whole = tokenizer.encode(text[:PROBE], add_special_tokens=True)
    at = next((k for k in range(len(whole) - len(few) + 1) if few and whole[k : k + len(few)] == few), 0)
    return [] if ids[:at] == whole[:at] else whole[:at]


def _tail(tokenizer, prompt: str, ids: list[int]) -> tuple[str, list[int]]:
    """The last words of a long prompt, if they have the same ids alone: all that an answer's tokens look back on."""
    cut = prompt.find(" ", max(0, len(prompt) - REACH))
    for begin in (cut, cut + 1) if cut > 0 else ():
        few = _plain(tokenizer, prompt[begin:])
        if few and ids[-len(few) :] == few:
            return prompt[begin:], few
    return prompt, ids


def _continue(tokenizer, heads: Sequence[tuple], answer: str) -> list[int]:
    for head, head_ids in heads:
        found = _behind(tokenizer, head, _plain(tokenizer, head) if head_ids is None else head_ids, answer)
        if found is not None:
            return found
    return _plain(tokenizer, answer)


def _behind(tokenizer, head: str, head_ids: list[int], answer: str) -> list[int] | None:
    """The ids of the answer in head + answer; None where it cannot be cut there without another head."""
    count = len(head_ids)
    if not getattr(tokenizer, "is_fast", False):
        both = _plain(tokenizer, head + answer)
        return both[count:] if both[:count] == head_ids else None
    found = tokenizer(head + answer, **PLAIN)
    # Equal ids are not enough: an unknown word may be one token before the cut and one that reaches over it. Blanks
    # that a special token takes in, as Phi-3's do, are lost in any text.
    last = found.token_to_chars(count - 1) if 0 < count <= len(found["input_ids"]) else None
    over = last is not None and answer[: max(0, last.end - len(head))].strip() != ""
    return found["input_ids"][count:] if found["input_ids"][:count] == head_ids and not over else None


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
    texts = [as_texts(message) for message in messages]
    try:
        written = tokenizer.apply_chat_template(texts, tokenize=False, **settings)
        contents = [one["content"].strip() for one in texts if isinstance(one.get("content"), str)]
        if any(contents) and not any(text and text in written for text in contents):  # it wants lists, for pictures
            raise ValueError("it writes none of their texts")
        return written
    except Exception as error:  # templates raise what they like
        cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        told = f"the chat template cannot write the messages ({cause}): give messages that it takes."
        raise ValueError(told) from error


def as_texts(message: Mapping) -> dict:
    """The message with a text in place of a list of texts, and without the empty keys that a table gives all rows."""
    filled = {key: value for key, value in message.items() if value is not None}
    if isinstance(parts := filled.get("content"), (list, tuple)):
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
        if all(isinstance(text, str) for text in texts):
            filled["content"] = "".join(texts)
    return filled
