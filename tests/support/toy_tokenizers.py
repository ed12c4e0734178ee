"""Small tokenizers of every make: sentencepiece's pieces, byte pairs, word pieces, bytes; with and without offsets."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast

TEXTS = [
    "What is the capital of France? Answer: Paris is the capital of France.\n\n\n",
    "def f(x):\n    return x\n\n\ndef g(y):\n        return y\n",
    "北京是中国的首都。答案是北京市。\n\n",
    "The Seine flows  through   Paris, to the   sea.\nAnswer:\nAnswer: \n",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}<end>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
SPECIALS = ["<|im_start|>", "<|im_end|>", "<end>"]
PIECES = ["Pa", "ri", "ris", "▁P", "▁Pa", "▁Paris"]
MERGES = [("P", "a"), ("r", "i"), ("ri", "s"), ("▁", "Pa"), ("▁Pa", "ris")]


def piece_vocabulary():
    """Bytes, single letters, and the pieces of Paris."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [*sorted({*"▁ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?:().,"}), *PIECES]
    return {word: number for number, word in enumerate(words)}


def llama():
    """transformers' LlamaTokenizer."""
    return LlamaTokenizer(vocab=piece_vocabulary(), merges=MERGES, add_bos_token=True)


def prepend(template="<s> $A"):
    """As converted sentencepiece files: a normaliser that puts a blank before the text, and bytes for the rest."""
    made = Tokenizer(models.BPE(piece_vocabulary(), MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(back)
    return _wrapped(made, template)


def byte_pairs(template="$A", prefix=False, trim=False):
    """As GPT-2's; `prefix` puts a blank before the text, `trim` leaves blanks out of the offsets, as RoBERTa does."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, trim_offsets=trim)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<s>", "</s>"],
    )  # fmt: skip
    made.train_from_iterator(TEXTS * 4, trainer)
    return _wrapped(made, template, pretrim=processors.ByteLevel(trim_offsets=True) if trim else None)


def word_pieces():
    """As BERT's, with tokens around."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    specials = ["[UNK]", "<s>", "</s>"]
    made.train_from_iterator(TEXTS * 4, trainers.WordPieceTrainer(special_tokens=specials, show_progress=False))
    return _wrapped(made, "<s> $A </s>")


def slow_bytes():
    """Bytes without offsets, </s> behind every text."""
    return ByT5Tokenizer(extra_ids=0)


def chatty(template=CHATML, **settings):
    """Byte pairs with a chat template whose turns end in a token of their own."""
    tokenizer = byte_pairs(**settings)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS})
    tokenizer.chat_template = template
    return tokenizer


def _wrapped(made, template, pretrim=None):
    places = [(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    post = processors.TemplateProcessing(single=template, special_tokens=places)
    made.post_processor = processors.Sequence([pretrim, post]) if pretrim else post
    made.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


ALL = {
    "llama": llama,
    "prepend": prepend,
    "prepend and end": lambda: prepend("<s> $A </s>"),
    "byte pairs": byte_pairs,
    "byte pairs with a blank before": lambda: byte_pairs(prefix=True),
    "byte pairs with trimmed offsets": lambda: byte_pairs("<s> $A </s>", trim=True),
    "word pieces": word_pieces,
    "slow bytes": slow_bytes,
}
