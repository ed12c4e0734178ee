"""A language model of 13 x 13 numbers: small enough to watch every probability while a preference loss trains it.

    log pi(y | x) = sum_t log softmax(table[y_{t-1}])[y_t],     y_0 = the last word of the prompt, "?"

where
    table     one row of logits for each word: what may follow it (V, V), V = 13
    x, y      a prompt that ends in "?", and an answer such as "the code is seven three nine ."

At the start it is unsure of the wording and of the fact alike: it says "the" or "that", "code" or "word", "is" or
"was" with a probability near a half each, and then "seven", "nine" or "lost". The chosen answer names the code; the
rejected ones share its first three words, and both are shorter. That is enough to see what each loss does.

Departure from the paper: everything but the losses, which are the library's. Word 0 is "!", because the released
trainer takes padding for word 0.

Taught in notebook 09.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WORDS = ("!", "?", "the", "that", "code", "word", "is", "was", "seven", "three", "nine", "lost", ".")
FOLLOWERS = {
    "?": {"the": 0.5, "that": 0.5},
    "the": {"code": 0.5, "word": 0.5},
    "that": {"code": 0.5, "word": 0.5},
    "code": {"is": 0.5, "was": 0.5},
    "word": {"is": 0.5, "was": 0.5},
    "is": {"seven": 0.4, "nine": 0.2, "lost": 0.4},
    "was": {"seven": 0.4, "nine": 0.2, "lost": 0.4},
    "seven": {"three": 0.9, ".": 0.1},
    "three": {"nine": 0.9, ".": 0.1},
    "nine": {".": 0.8, "seven": 0.2},
    "lost": {".": 1.0},
}
SMALL = 0.01  # what every other word gets, before a row is normalised
CHOSEN, WRONG, EVASIVE = "the code is seven three nine .", "the code is nine .", "the code is lost ."
ANSWERS = (CHOSEN, WRONG, EVASIVE)


def ids(text: str) -> Tensor:
    """The word numbers of a text, `(n,)`; ValueError for a word that the policy does not know."""
    unknown = [word for word in text.split() if word not in WORDS]
    if unknown:
        raise ValueError(f"text holds {unknown[0]!r}: the toy policy knows the words {', '.join(WORDS)}.")
    return torch.tensor([WORDS.index(word) for word in text.split()], dtype=torch.int64)


def start() -> Tensor:
    """The table before any training, `(V, V)` log-probabilities in fp64."""
    table = torch.full((len(WORDS), len(WORDS)), SMALL, dtype=torch.float64)
    for word, followers in FOLLOWERS.items():
        for follower, probability in followers.items():
            table[WORDS.index(word), WORDS.index(follower)] += probability
    return (table / table.sum(1, keepdim=True)).log()


def answer_logps(table: Tensor, answer: str) -> Tensor:
    """The log-probability of each word of an answer, given the word before it, `(n,)`."""
    said = ids(answer)
    read = torch.cat([ids("?"), said[:-1]])
    return torch.log_softmax(table, 1)[read, said]


def means(table: Tensor, answers: Sequence[str] = ANSWERS) -> Tensor:
    """The mean token log-probability of each answer, `(1, 1 + M)`: a batch of one example."""
    return torch.stack([answer_logps(table, answer).mean() for answer in answers])[None]


def sums(table: Tensor, answers: Sequence[str] = ANSWERS) -> Tensor:
    """The summed log-probability of each answer, `(1, 1 + M)`."""
    return torch.stack([answer_logps(table, answer).sum() for answer in answers])[None]


def probability(table: Tensor, word: str, follower: str) -> float:
    """How likely the policy says `follower` after `word`."""
    return torch.softmax(table[ids(word)], 1)[0, ids(follower)].item()


def train(loss: Callable[[Tensor], Tensor], table: Tensor | None = None, *, steps: int = 400, rate: float = 0.3):
    """Plain gradient descent on `loss(table)`: the trained table and the means at every step, `(steps + 1, 1 + M)`."""
    table = (start() if table is None else table).clone().requires_grad_()
    history = []
    for step in range(steps + 1):
        history.append(means(table).detach()[0])
        if step < steps:
            (grad,) = torch.autograd.grad(loss(table), table)
            table = (table - rate * grad).detach().requires_grad_()
    return table.detach(), torch.stack(history)


def as_model(table: Tensor):
    """The same policy as a transformers model: a Llama without layers, whose hidden state is the word just read."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"vocab_size": len(WORDS), "hidden_size": len(WORDS), "intermediate_size": 1, "head_dim": 2}
    model = LlamaForCausalLM(LlamaConfig(**size, num_hidden_layers=0, num_attention_heads=1, tie_word_embeddings=False))
    model.requires_grad_(False).to(table.dtype)
    model.get_input_embeddings().weight.copy_(torch.eye(len(WORDS)))
    model.model.norm.weight.fill_(len(WORDS) ** -0.5)  # undoes what the norm does to a vector with a single 1
    model.lm_head.weight.requires_grad_(True).data.copy_(table.T)
    return model
