"""A tokenizer of sixty-one words, pairs of random words with chunks, and a LogoTrainer on a tiny random Llama.

The judge computes every answer by a full pass of its own, through `tiny_llama.separate_hidden`.
"""

import tempfile
from pathlib import Path
from random import Random

import torch
from support.tiny_llama import VOCABULARY, logps, separate_hidden, tiny_llama

from minilib.cli.launch import shard_on_cpus
from minilib.trainers.logo import LogoConfig, LogoTrainer

UNUSED = str(Path(tempfile.gettempdir(), "minilib-unused"))  # transformers makes the folder even if nothing is saved
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>"]
WORDS += [f"w{k}" for k in range(VOCABULARY - len(WORDS))]


def toy_tokenizer(bos=False):
    """A word is a token; with `bos` the tokenizer puts <bos> before a text, as Llama's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    if bos:
        names["bos_token"] = "<bos>"
        pieces.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **names)


def toy_rows(count, m=2, seed=0):
    """Rows of random words: two before the chunks, three chunks of 2 to 5, two behind; 1 + m answers of 1 to 4."""
    rng = Random(seed)

    def words(least, most):
        return " ".join(rng.choices(WORDS[4:], k=rng.randint(least, most)))

    rows = []
    for _ in range(count):
        chunks = [words(2, 5) for _ in range(3)]
        prompt = " ".join([words(2, 2), *chunks, words(2, 2)])
        rows.append({"prompt": prompt, "chosen": words(1, 4), "rejected": [words(1, 4) for _ in range(m)]})
        rows[-1]["chunks"] = chunks
    return rows


def make_trainer(rows=None, eval_rows=None, *, model=None, dtype=torch.float64, tokenizer=None, args=None, **options):
    """A LogoTrainer that writes nothing; `args` and `options` go to LogoConfig."""
    settings = {"output_dir": UNUSED, "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    settings |= {"logging_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    peft_config = options.pop("peft_config", None)
    config = LogoConfig(**settings | (args or {}) | options)
    shard_on_cpus(config)
    return LogoTrainer(
        model or tiny_llama(dtype),
        config,
        toy_rows(8) if rows is None else rows,
        eval_rows,
        processing_class=tokenizer or toy_tokenizer(),
        peft_config=peft_config,
    )


def some_rows(trainer, count=3):
    """The first rows of the training data as the trainer's loader hands them out."""
    return trainer.data_collator([trainer.train_dataset[k] for k in range(count)])


def scores_apart(model, batch):
    """Sums and means of token log-probabilities, both (b, 1 + M), by a full pass for each answer of a packed batch."""
    sums, means = [], []
    for ids, positions, segments in zip(batch.input_ids, batch.position_ids, batch.segment_ids):
        answers = [ids[segments == a] for a in range(1, int(segments.max()) + 1)]
        hidden = separate_hidden(model, ids[segments == 0], answers, positions[segments == 0])
        values = logps(model, hidden, torch.cat(answers)).split([len(answer) for answer in answers])
        sums.append(torch.stack([value.sum() for value in values]))
        means.append(torch.stack([value.mean() for value in values]))
    return torch.stack(sums), torch.stack(means)
