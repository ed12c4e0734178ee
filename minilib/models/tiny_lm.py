"""A language model of a few hundred thousand parameters that reads 256 tokens well, and fails honestly beyond them.

    p(x_t | x_<t) = softmax(E h_t),     h = Llama(E[x])        three layers, four heads over two keys and values,
                                                               rotary positions, no trick for length

where
    E    (V, d) the embedding, tied to the output: V = 2,048 pieces of text, d = 128
    h_t  (d,) the last hidden state at token t

`python -m minilib.teaching.tiny_lm.training` trained it on haystacks; the record of that run lies next to its weights
(`training.json`). It finds all single details in its window, 0.85 at two windows and 0.43 at four, and names two values
of one name in 0.85 of the cases; it has not learned to count or to compare lists: about 0.5 and 0.46, where guessing
between two gives 0.5. Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minilib.data.facts import NAMES, NUMBERS, VALUES, as_prompt
from minilib.data.running_text import prose_sentences

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WINDOW = 256  # tokens, question and answer included
FOLDER = Path(__file__).parent / "checkpoints" / "tiny_lm"


def tiny_lm(folder: str | Path | None = None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The trained model, in evaluation mode, and its tokenizer; from `folder`, or the one that comes with minilib."""
    from safetensors.torch import load_model
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = Path(FOLDER if folder is None else folder)
    lacking = [n for n in ("config.json", "model.safetensors", "tokenizer.json") if not (folder / n).is_file()]
    if lacking:
        raise ValueError(
            f"folder {folder} has no {' and no '.join(lacking)}: "
            "make one with python -m minilib.teaching.tiny_lm.training."
        )
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder, local_files_only=True))
    load_model(model, folder / "model.safetensors")  # knows that the output is the embedding and not in the file
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, padding_side="left")
    return model.eval(), tokenizer


def new_model(vocab_size: int, *, dim: int = 128, layers: int = 3, heads: int = 4, groups: int = 2) -> LlamaForCausalLM:
    """The architecture with fresh random weights; `groups` heads of keys and values serve all `heads`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=dim,
            intermediate_size=3 * dim // 2,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            max_position_embeddings=WINDOW,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def new_tokenizer(vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Byte pairs learned on the running text and on the haystack's facts and questions, in seconds.

    A word is split alike at the beginning and inside of a text. No token is added: end an answer with `eos_token_id`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The facts forty times over: their words then are among the first that byte pairs grow into.
    pieces.train_from_iterator([*prose_sentences(), *_needles() * 40], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _needles() -> list[str]:
    asks = "What does {0} keep? Which things does {0} keep? How many things does {0} keep?"
    asks += " What do {0} and {0} both keep?"
    facts = [as_prompt(f"{n} keeps {v}.", asks.format(n)) + f" {v} and {v}" for n, v in zip(NAMES, VALUES)]
    return [*facts, " ".join(NUMBERS)]
