"""What a ContrastiveTrainer asks of its settings, each refusal one sentence: setting, what came, what to do.

Proven in tests/test_bad_input_gets_one_sentence.py and tests/test_training_on_many_ranks_equals_one.py.
"""

from minilib.losses import _inputs


def check(settings: dict, save_every: int, backend: str, ranks: int) -> None:
    """Refuse with ValueError what cannot be trained."""
    _inputs.resolve(backend)
    for name in ("batch_size", "micro_batch_size", "steps"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: give a positive whole number.")
    if save_every < 1:
        raise ValueError(f"save_every is {save_every}: give a positive whole number of steps.")
    if settings["batch_size"] > settings["dataset_rows"]:
        raise ValueError(
            f"batch_size is {settings['batch_size']} but the dataset has {settings['dataset_rows']} rows: "
            "take a smaller batch or a larger dataset."
        )
    if settings["batch_size"] < ranks:
        raise ValueError(
            f"batch_size is {settings['batch_size']} and {ranks} ranks share it: give at least one pair per rank, or "
            "start fewer ranks."
        )
    if settings["loss"] not in ("clip", "siglip"):
        raise ValueError(f"loss {settings['loss']!r} is unknown: choose 'clip' or 'siglip'.")
    if settings["frozen"] not in (None, "image", "text"):
        raise ValueError(f"frozen is {settings['frozen']!r}: choose 'image', 'text' or None.")
