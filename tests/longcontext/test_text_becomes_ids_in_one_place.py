"""Prompt and answer are one text, cut where the prompt ends, whoever made the tokenizer and whoever asks.

The judge is the tokenizer itself: the ids of the whole text, and the text that ids decode to.
"""

import pytest
from support.toy_tokenizers import (
    ALL,
    CHATML,
    INST,
    SPECIALS,
    byte_pairs,
    chatty,
    llama,
    prepend,
    slow_bytes,
    word_pieces,
)

from minilib.longcontext.text_ids import prompt_ids, question_end, render_chat, text_ids, turn_end
from minilib.models.generation import end_ids

TOKENIZERS = {name: make() for name, make in ALL.items()}
EXACT = [name for name in ALL if name != "word pieces"]  # those that decode to the very text


def pieces(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


# As in one text


def test_an_answer_behind_a_line_break_begins_without_a_blank():
    for tokenizer in (llama(), prepend()):
        prompt, (answer,), _ = text_ids(tokenizer, "What is it?\n", ["Paris"])
        assert pieces(tokenizer, answer) == ["Pa", "ris"]
        assert prompt + answer == [1, *plain(tokenizer, "What is it?\nParis")]


def test_no_token_is_put_before_an_answer_that_begins_with_its_blank():
    for tokenizer in (llama(), prepend(), prepend("<s> $A </s>")):
        _, (answer,), _ = text_ids(tokenizer, "Answer:", [" Paris"])
        assert pieces(tokenizer, answer) == ["▁Paris"]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("def f(x):\n", "    return x"),
        ("def f(x):\n", "\n\n    return x\n"),
        ("What is it?\n\n", "Paris"),
        ("What is it?", " Paris"),
        ("What is it?", "Paris"),
        ("What is it? ", "Paris"),
        ("What is it?  ", "  Paris"),
        ("中国的首都是哪里？", "北京是首都"),
        ("The capital is Pa", "ris"),
        ("The sea\n", "\n"),
        ("The word is ", "🦀 crab"),
        ("It is ", "e\u0301te\u0301"),
    ],
)
def test_prompt_and_answer_decode_to_the_text_as_given(name, prompt, answer):
    tokenizer = TOKENIZERS[name]
    found = text_ids(tokenizer, prompt, [answer])
    ids = found.prompt + found.answers[0]
    assert tokenizer.decode(ids, skip_special_tokens=True).removeprefix(" ") == prompt + answer
    assert found.prompt == prompt_ids(tokenizer, prompt), "training and answering read the same prompt"
    whole = plain(tokenizer, prompt + answer)
    if whole[: len(plain(tokenizer, prompt))] == plain(tokenizer, prompt):  # no token reaches over the cut
        assert ids[-len(whole) :] == whole


def test_a_token_that_reaches_over_the_cut_is_cut_and_the_prompt_stays_what_answering_reads():
    tokenizer = byte_pairs()
    assert len(plain(tokenizer, "\n\n")) == 1
    prompt, (answer,), _ = text_ids(tokenizer, "The sea.\n", ["\nParis"])
    assert prompt == plain(tokenizer, "The sea.\n")
    assert pieces(tokenizer, answer)[0] == "Ċ"
    trimmed = byte_pairs(trim=True)  # whose offsets hide that the blank belongs to the word
    prompt, (answer,), _ = text_ids(trimmed, "It is ", ["Paris"])
    assert pieces(trimmed, prompt)[-1] == "Ġ"
    assert trimmed.decode(answer) == "Paris"


def test_an_unknown_word_that_reaches_over_the_cut_swallows_no_answer():
    from support.logo_toys import toy_tokenizer

    tokenizer = toy_tokenizer()
    _, answers, _ = text_ids(tokenizer, "w1 nobody", ["w2 w3", " w2"])
    assert [pieces(tokenizer, ids) for ids in answers] == [["w2", "w3"], ["w2"]]


def test_word_pieces_go_on_inside_a_word():
    tokenizer = word_pieces()
    whole = plain(tokenizer, "Paris flows")
    prompt, (answer,), _ = text_ids(tokenizer, "Paris", [" flows"])
    assert [prompt[0], *whole] == prompt + answer


def test_a_long_prompt_is_continued_like_a_short_one():
    text = "The Seine flows through Paris, to the sea. " * 40
    for name in EXACT:
        tokenizer = TOKENIZERS[name]
        found = text_ids(tokenizer, text + "What is it?", [" Paris flows", "\n\nParis"])
        for ids, answer in zip(found.answers, (" Paris flows", "\n\nParis")):
            assert found.prompt[-20:] + ids == plain(tokenizer, text + "What is it?" + answer)[-20 - len(ids) :]


# Special tokens


@pytest.mark.parametrize("name", ["prepend and end", "byte pairs with trimmed offsets", "word pieces", "slow bytes"])
def test_no_end_of_text_stands_between_prompt_and_answer(name):
    tokenizer = TOKENIZERS[name]
    assert tokenizer.encode("The sea")[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in prompt_ids(tokenizer, "The sea")
    assert text_ids(tokenizer, "The sea", [" flows"]).prompt == tokenizer.encode("The sea")[:-1]


@pytest.mark.parametrize("make", [llama, prepend, lambda: byte_pairs("<s> $A </s>"), lambda: byte_pairs("<s> $A")])
def test_a_beginning_that_the_text_brings_along_is_there_once(make):
    tokenizer = make()
    for prompt in ("The sea", "<s>The sea"):
        ids = prompt_ids(tokenizer, prompt)
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id
        assert text_ids(tokenizer, prompt, [" flows"]).prompt == ids


def test_a_special_token_of_the_text_stays_where_it_stands():
    tokenizer = chatty()
    prompt, (answer,), begins = text_ids(tokenizer, "What?<|im_end|><|im_start|>", ["Paris"])
    assert pieces(tokenizer, prompt)[-2:] == ["<|im_end|>", "<|im_start|>"]
    assert tokenizer.decode(answer) == "Paris"
    assert len(begins) == len(prompt)


def test_a_blank_that_a_special_token_takes_in_is_lost_as_in_one_text():
    from tokenizers import AddedToken

    tokenizer = byte_pairs()
    tokenizer.add_tokens([AddedToken("<|assistant|>", rstrip=True, special=True)])  # as Phi-3's
    for prompt, given in (("What?<|assistant|>", " Paris"), ("What?<|assistant|>\n", "Paris")):
        found, (answer,), _ = text_ids(tokenizer, prompt, [given])
        assert found + answer == plain(tokenizer, prompt + given)
        assert pieces(tokenizer, answer) == ["Pa", "ris"]


def test_a_slow_tokenizer_says_nothing_of_places():
    assert text_ids(slow_bytes(), "The sea", [" flows"]).begins is None


# Ends


def test_the_end_of_a_turn_is_found_by_rendering():
    assert turn_end(chatty()) == "<|im_end|>"
    assert question_end(chatty()) == "<|im_end|>\n<|im_start|>assistant\n"
    assert turn_end(chatty(INST)) == "<end>"
    assert question_end(chatty(INST)) == " [/INST]"
    assert turn_end(byte_pairs()) == question_end(byte_pairs()) == ""
    assert turn_end(chatty("{{ raise_exception('no') }}")) == ""


def test_every_id_that_ends_an_answer_is_known():
    from transformers import GenerationConfig

    tokenizer, end = byte_pairs(), byte_pairs().eos_token_id
    assert end_ids(tokenizer) == [end]
    assert end_ids(tokenizer, GenerationConfig(eos_token_id=[end, 77])) == [end, 77]
    assert end_ids(tokenizer, GenerationConfig(eos_token_id=77)) == [end, 77]
    chat = chatty()
    assert end_ids(chat, GenerationConfig(eos_token_id=[7])) == sorted(
        [7, end, chat.convert_tokens_to_ids("<|im_end|>")]
    )
    chat.eos_token = None
    assert end_ids(chat) == [chat.convert_tokens_to_ids("<|im_end|>")]
    tokenizer.eos_token = None
    assert end_ids(tokenizer) == []


QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
ANSWER = [{"role": "assistant", "content": "Paris"}]


def test_messages_are_rendered_and_an_answer_ends_as_its_turn():
    prompt, (text,) = render_chat(chatty(), QUESTION, [ANSWER])
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text == "Paris<|im_end|>"
    assert prompt_ids(chatty(), QUESTION) == prompt_ids(chatty(), prompt)


def test_a_template_that_writes_an_answered_question_otherwise_shares_what_is_common():
    thinking = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}")
    prompt, (text,) = render_chat(chatty(thinking), QUESTION, [ANSWER])
    assert prompt.endswith("<|im_start|>assistant\n")
    assert text == "Paris<|im_end|>"


def test_an_open_turn_of_the_assistant_is_gone_on_with():
    prompt = prompt_ids(chatty(), [*QUESTION, {"role": "assistant", "content": "It is"}])
    assert chatty().decode(prompt).endswith("assistant\nIt is")


def test_empty_keys_of_a_table_do_not_reach_the_template():
    template = "{% for m in messages %}{% if 'tool_calls' in m %}!{% endif %}{{ m['content'] }}{% endfor %}"
    tokenizer = chatty(template)
    message = {"role": "user", "content": "What?", "tool_calls": None}
    assert "!" not in tokenizer.decode(prompt_ids(tokenizer, [message]))


LISTS = CHATML.replace("{{ m['content'] }}", "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}")
EITHER = CHATML.replace("m['content']", "m['content'] if m['content'] is string else m['content'][0]['text']")


@pytest.mark.parametrize("template", [CHATML, EITHER])
def test_a_list_of_texts_is_its_text(template):
    listed = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in (*QUESTION, *ANSWER)]
    want = render_chat(chatty(), QUESTION, [ANSWER])
    assert render_chat(chatty(template), QUESTION, [ANSWER]) == want
    assert render_chat(chatty(template), listed[:2], [listed[2:]]) == want


def test_a_template_that_leaves_all_texts_out_is_refused():
    words = (
        r"the chat template cannot write the messages \(it writes none of their texts\): give messages that it takes"
    )
    with pytest.raises(ValueError, match=words):
        render_chat(chatty(LISTS), QUESTION, [ANSWER])


def test_messages_without_a_template_and_messages_that_it_does_not_take_are_refused():
    with pytest.raises(ValueError, match="the tokenizer has no chat template for messages: set"):
        prompt_ids(byte_pairs(), QUESTION)
    with pytest.raises(ValueError, match=r"the chat template cannot write the messages \(no system role\): give"):
        prompt_ids(chatty("{{ raise_exception('no system role') }}"), QUESTION)


def test_the_specials_of_the_toys_are_single_tokens():
    assert all(len(plain(chatty(), special)) == 1 for special in SPECIALS)
