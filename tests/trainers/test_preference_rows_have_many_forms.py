"""Texts and chats, with and without a prompt, one rejected answer or several: every form of TRL gives the same tokens.

TRL's own functions are the judge of how a prompt is taken out of a row and how messages become texts.
"""

import warnings

import pytest
from datasets import Dataset
from support.logo_toys import make_trainer, toy_rows, toy_tokenizer
from support.reference import refused
from support.toy_tokenizers import CHATML, INST, byte_pairs, chatty

from minilib.common import raise_first, rows_named
from minilib.trainers.collator import PairCollator
from minilib.trainers.preference_rows import number_rows, read_row


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


ASKED = [user("What flows through Paris?")]
CHAT = {"prompt": ASKED, "chosen": [assistant("The Seine.")], "rejected": [assistant("The sea.")]}
LONG = [{"role": "system", "content": "Be brief."}, user("Hello"), assistant("Yes?"), user("What flows?")]
ROWS = {
    "chat": CHAT,
    "several rejected": CHAT | {"rejected": [[assistant("The sea.")], [assistant("The capital.")]]},
    "whole chats": {"chosen": [*ASKED, *CHAT["chosen"]], "rejected": [*ASKED, *CHAT["rejected"]]},
    "several turns": {"prompt": LONG, "chosen": CHAT["chosen"], "rejected": CHAT["rejected"]},
    "whole chats of several turns": {"chosen": [*LONG, *CHAT["chosen"]], "rejected": [*LONG, *CHAT["rejected"]]},
}


def tokens(tokenizer, row, **settings):
    return PairCollator(tokenizer, **settings).tokenize({"number": 0, **row})


def texts(tokenizer, row, **settings):
    found = tokens(tokenizer, row, **settings)
    return tokenizer.decode(found.prompt), [tokenizer.decode(answer) for answer in found.answers]


@pytest.mark.parametrize("name", [name for name in ROWS if name != "several rejected"])
@pytest.mark.parametrize("template", [CHATML, INST])
def test_chats_become_the_texts_that_trl_makes_of_them(name, template):
    data_utils = pytest.importorskip("trl.data_utils", reason="TRL is not installed")
    tokenizer = chatty(template)
    want = data_utils.apply_chat_template(data_utils.maybe_extract_prompt(ROWS[name]), tokenizer)
    prompt, (chosen, rejected) = texts(tokenizer, ROWS[name])
    assert prompt == want["prompt"]
    assert [chosen, rejected] == [want["chosen"].rstrip(), want["rejected"].rstrip()]
    assert chosen.endswith({CHATML: "<|im_end|>", INST: "<end>"}[template])
    assert "</s>" not in chosen


def test_several_rejected_chats_are_several_answers():
    prompt, answers = texts(chatty(), ROWS["several rejected"])
    assert prompt == texts(chatty(), CHAT)[0]
    assert answers == ["The Seine.<|im_end|>", "The sea.<|im_end|>", "The capital.<|im_end|>"]


def test_one_message_and_messages_of_parts_are_what_they_say():
    part = {"type": "text", "text": "The Seine."}
    one = CHAT | {"chosen": {"role": "assistant", "content": [part]}, "rejected": CHAT["rejected"][0]}
    assert texts(chatty(), one) == texts(chatty(), CHAT)


def test_a_text_behind_messages_is_the_assistants():
    row = {"prompt": ASKED, "chosen": "The Seine.", "rejected": ["The sea."]}
    assert texts(chatty(), row) == texts(chatty(), CHAT)


def test_a_prompt_next_to_whole_chats_is_theirs():
    whole = ROWS["whole chats"]
    for prompt in (ASKED, ASKED[0]["content"]):
        assert texts(chatty(), {"prompt": prompt, **whole}) == texts(chatty(), CHAT)
    only_answers = {"prompt": ASKED[0]["content"], "chosen": CHAT["chosen"], "rejected": CHAT["rejected"]}
    assert texts(chatty(), only_answers) == texts(chatty(), CHAT)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("The sky is blue.", "The sky is green."),
        ("Human: What?\n\nAssistant: Paris", "Human: What?\n\nAssistant: Rome"),
        ("What is it?\nParis", "What is it?\nRome, the capital"),
    ],
)
def test_texts_without_a_prompt_share_it_as_in_trl(chosen, rejected):
    data_utils = pytest.importorskip("trl.data_utils", reason="TRL is not installed")
    want = data_utils.extract_prompt({"chosen": chosen, "rejected": rejected})
    prompt, answers = read_row({"chosen": chosen, "rejected": rejected}, 0)
    assert (prompt, *answers) == (want["prompt"], want["chosen"], want["rejected"])
    tokenizer = byte_pairs()
    assert texts(tokenizer, {"chosen": chosen, "rejected": [rejected]}) == (
        want["prompt"],
        [want["chosen"] + "</s>", want["rejected"] + "</s>"],
    )


def test_a_text_that_the_template_has_written_ends_as_the_template_ends():
    tokenizer = chatty()
    prompt = texts(tokenizer, CHAT)[0]
    row = {"prompt": prompt, "chosen": "The Seine.", "rejected": ["The sea.<|im_end|>"]}
    assert texts(tokenizer, row) == texts(tokenizer, CHAT)
    plain = {**row, "prompt": "What flows?", "chosen": " The Seine."}
    assert texts(tokenizer, plain)[1][0] == " The Seine.</s>"


def test_tools_and_settings_of_the_template_reach_it():
    template = "{% if tools %}{{ tools | length }} tools{% endif %}{{ mood }}" + CHATML
    row = CHAT | {"tools": [{"type": "function"}], "chat_template_kwargs": {"mood": " gay"}}
    assert texts(chatty(template), row)[0].startswith("1 tools gay<|im_start|>")


def test_chunks_are_found_inside_a_rendered_prompt():
    question = "The Seine flows. Paris is the capital. What flows?"
    row = {**CHAT, "prompt": [user(question)], "chunks": ["The Seine flows.", " Paris is the capital."]}
    tokenizer = chatty()
    found = tokens(tokenizer, row, with_chunks=True)
    head, chunks, tail = found.sizes
    ids = iter(found.prompt)
    parts = [tokenizer.decode([next(ids) for _ in range(size)]) for size in (head, *chunks, tail)]
    assert parts[0] == "<|im_start|>user"  # a blank, a line break too, goes with the word behind it
    assert [part.strip() for part in parts[1:3]] == [chunk.strip() for chunk in row["chunks"]]
    assert parts[3].strip() == "What flows?<|im_end|>\n<|im_start|>assistant"


def test_a_table_of_chats_is_read_like_a_list():
    rows = [CHAT, ROWS["several turns"]]
    table = number_rows(Dataset.from_list(rows), "data", with_chunks=False)
    for number, row in enumerate(rows):
        assert tokens(chatty(), table[number])[1:] == tokens(chatty(), row)[1:]


def test_chats_train():
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} <eos> {% endfor %}"
    rows = [
        {"prompt": [user(r["prompt"])], "chosen": [assistant(r["chosen"])], "rejected": [assistant(r["rejected"][0])]}
        for r in toy_rows(8, m=1)
    ]
    trainer = make_trainer(rows, tokenizer=tokenizer, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


BAD = {
    "no kind": ({"chosen": "text"}, TypeError, "row 3 has texts and messages among its answers"),
    "no role": ({"prompt": [{"content": "What?"}]}, ValueError, "in prompt: give messages with role and content"),
    "no content": ({"chosen": [assistant(None)]}, ValueError, "in chosen: give messages with role and content"),
    "a number": ({"rejected": 5}, ValueError, "row 3 has 5 as rejected"),
    "a number as content": ({"chosen": [assistant(5)]}, ValueError, "row 3 has {'content': 5, 'role': 'assistant'}"),
    "blank content": ({"chosen": [assistant(" ")]}, ValueError, "in chosen: give messages with role and content"),
    "a picture": ({"prompt": [user([{"type": "image", "text": None}])]}, ValueError, "in prompt: give messages with"),
    "the user's answer": ({"chosen": [user("Paris")]}, ValueError, "row 3 has an answer that begins or ends with a"),
    "an answer that the user ends": ({"chosen": [assistant("a"), user("b")]}, ValueError, "row 3 has an answer that"),
    "chats of another prompt": (
        {name: [user(name), assistant("a")] for name in ("chosen", "rejected")},
        ValueError,
        "row 3 has an answer that",
    ),
    "a number between": ({"separator": 5}, TypeError, "row 3 has 5 as separator: give a text, or leave it out."),
    "settings as a text": ({"chat_template_kwargs": "x"}, TypeError, "row 3 has 'x' as chat_template_kwargs: give an"),
    "equal chats": ({"prompt": None}, ValueError, "data has no 'prompt' in row 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_its_field(case):
    changed, error, words = BAD[case]
    refused(error, words, lambda: read_row(CHAT | changed, 3))


def test_rows_without_a_prompt_that_share_nothing_or_everything_are_named():
    for chosen, rejected in (("Paris", "Rome"), ("Paris", "Paris"), ("Paris", "Paris and Rome")):
        row = {"chosen": chosen, "rejected": rejected}
        refused(ValueError, "row 3 has no 'prompt', and its answers do not", lambda row=row: read_row(row, 3))


def test_chats_without_a_template_are_refused_with_their_row():
    words = "row 0: the tokenizer has no chat template for messages: set tokenizer.chat_template, or give texts."
    refused(ValueError, words, lambda: tokens(byte_pairs(), CHAT))


def test_the_first_ten_bad_rows_are_listed_and_the_rest_counted():
    rows = toy_rows(20)
    for row in rows[3:17]:
        row["chosen"] = None
    rows[4]["chosen"] = 7
    with pytest.raises(ValueError) as error:
        number_rows(rows, "data", with_chunks=False)
    told = str(error.value)
    assert told.startswith("data has no 'chosen' in row 3; row 4 has 7 as chosen; data has no 'chosen' in row 5; ")
    assert told.endswith("in row 12; and 4 rows more: fix these rows or leave them out.")
    assert "\n" not in told
    assert rows_named([4]) == "row 4"
    assert rows_named(list(range(12))) == "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_a_rejected_answer_equal_to_the_chosen_one_is_told():
    rows = toy_rows(6)
    rows[2]["rejected"][1] = rows[2]["chosen"]
    with pytest.warns(UserWarning, match="data has row 2 with a rejected answer equal to the chosen one"):
        number_rows(rows, "data", with_chunks=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        number_rows(toy_rows(6), "data", with_chunks=False)


def test_a_rejected_answer_equal_but_for_blanks_is_told():
    rows = toy_rows(6)
    rows[2]["rejected"][1] = f"  {rows[2]['chosen']}\n"
    with pytest.warns(UserWarning, match="data has row 2 with a rejected answer equal to the chosen one"):
        number_rows(rows, "data", with_chunks=False)


def test_what_is_wrong_with_several_rows_keeps_its_words():
    faults = [ValueError(f"row {number}: no chat template for it: set one.") for number in range(2)]
    with pytest.raises(ValueError, match=r"^row 0: no chat template for it; row 1: no chat template for it: fix these"):
        raise_first(faults)


def test_an_answer_without_a_token_is_refused():
    row = {"prompt": "The sea", "chosen": " flows", "rejected": ["\u200b"]}
    from tokenizers.normalizers import Replace

    tokenizer = byte_pairs()
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    refused(ValueError, "row 0 has no token in rejected[0]", lambda: tokens(tokenizer, row))
