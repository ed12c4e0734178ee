"""The snippets of "Use one piece of this" run in the software they are meant for, and give what they replace.

Each snippet is taken from the page and executed with the names that the page leaves to the reader. Its judge is the
package's own loss or loop on equal weights, or the plain formula.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from support.imports import imported
from support.logo_toys import UNUSED, scores_apart, some_rows, toy_rows, toy_tokenizer
from support.printed import ROOT, printed
from support.ranks import results, run_ranks
from support.stand_in import import_open_clip
from support.tiny_llama import VOCABULARY, tiny_llama
from support.toys import ToyPairs, ToyTowers
from torch import nn

PAGE = "book/use_one_piece.md"
PIECES = printed(PAGE, "piece")
QUIET = {"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}


def use(name, **given):
    """What a snippet leaves behind, begun with the names that the page leaves to its reader."""
    names = dict(given)
    exec(compile(PIECES[name], f"{PAGE}, {name}", "exec"), names)
    return SimpleNamespace(**{key: value for key, value in names.items() if not key.startswith("__")})


def assert_equal_weights(one, other, tolerance):
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a - b).abs().max() <= tolerance, name


def test_snippets_are_short_and_each_is_tested():
    source = (ROOT / "tests" / "test_pieces_fit_other_software.py").read_text()
    for name, code in PIECES.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 15, name
        assert f'use("{name}"' in source, f"{name} is not executed"
    assert len(PIECES) == len(re.findall("```python", (ROOT / PAGE).read_text()))


# open_clip


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    pytest.importorskip("open_clip_train", reason="open_clip_torch is not installed, so our loss is not put into it")
    package, loop = import_open_clip()
    folder = tmp_path_factory.mktemp("open_clip")
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 6, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 1}
    (folder / "tiny-clip.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    biased = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text, "init_logit_bias": -10}
    (folder / "tiny-siglip.json").write_text(json.dumps(biased))
    package.add_model_config(folder)
    return package, loop


@pytest.mark.parametrize(("name", "loss"), [("tiny-clip", "ClipLoss"), ("tiny-siglip", "SigLipLoss")])
def test_the_training_loop_of_open_clip_learns_the_same_from_our_loss(open_clip, name, loss):
    package, loop = open_clip
    from open_clip import loss as losses

    model = package.create_model(name, output_dict=True)
    batches = [(torch.rand(6, 3, 16, 16), torch.randint(1, VOCABULARY, (6, 6))) for _ in range(3)]
    settings = {"device": "cpu", "precision": "fp32", "distill": False, "accum_freq": 1, "skip_scheduler": True}
    settings |= {"horovod": False, "grad_clip_norm": None, "rank": 0, "world_size": 1, "log_every_n_steps": 1}
    args = SimpleNamespace(**settings, batch_size=6, wandb=False, distributed=False, log_local=False)
    loader = type("Loader", (list,), {"num_batches": 3, "num_samples": 18})(batches)
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    ours, theirs = model, copy.deepcopy(model)
    start = copy.deepcopy(model)
    given = {"data": data, "epoch": 0, "scaler": None, "scheduler": None, "args": args}
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in (ours, theirs)]
    use("open_clip", model=ours, optimizer=optimizers[0], train_one_epoch=loop.train_one_epoch, **given)
    loop.train_one_epoch(theirs, data, getattr(losses, loss)(), 0, optimizers[1], None, None, None, args)
    assert_equal_weights(ours, theirs, 1e-5)
    with pytest.raises(AssertionError):
        assert_equal_weights(ours, start, 1e-4)


# sentence-transformers


def test_the_trainer_of_sentence_transformers_learns_the_same_from_our_loss(tmp_path):
    reason = "sentence-transformers is not installed, so our loss is not put into it"
    package = pytest.importorskip("sentence_transformers", reason=reason, exc_type=ImportError)
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    ours = package.SentenceTransformer(modules=[StaticEmbedding(toy_tokenizer(), embedding_dim=8)], device="cpu")
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    rows = [row["prompt"].split() for row in toy_rows(16)]
    pairs = Dataset.from_list([{"anchor": " ".join(row[:4]), "positive": " ".join(row[4:])} for row in rows])
    settings = {"output_dir": str(tmp_path), "per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 1e-3}
    args = package.SentenceTransformerTrainingArguments(**settings, **QUIET)
    trainer = package.SentenceTransformerTrainer
    use("sentence_transformers", model=ours, args=args, pairs=pairs, SentenceTransformerTrainer=trainer)
    loss = losses.MultipleNegativesSymmetricRankingLoss(theirs)
    trainer(theirs, args, train_dataset=pairs, loss=loss).train()
    assert_equal_weights(ours, theirs, 1e-5)
    with pytest.raises(AssertionError):
        assert_equal_weights(ours, start, 1e-4)


# The ring and the gradient cache


class Both(nn.Module):
    """Features of both sides and the scale from one forward pass, as CLIP models give them."""

    def __init__(self):
        super().__init__()
        self.towers = ToyTowers(dropout=0.0)

    def forward(self, images, texts):
        towers = self.towers
        return towers.encode_image(images), towers.encode_text(texts), towers.logit_scale.exp()


def dense(image_features, text_features, scale):
    logits = scale * image_features @ text_features.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_rank_of_a_script(rank):
    rows, model = ToyPairs(12)[slice(None)], Both()
    model.towers.logit_bias.requires_grad_(False)
    mine = slice(0, 5) if rank == 0 else slice(5, 12)
    use("ring", model=model, images=rows["image"][mine], texts=rows["caption"][mine])
    return gradients(model)


def test_ddp_ends_with_the_gradients_of_all_rows_in_one_process():
    rows, model = ToyPairs(12)[slice(None)], Both()
    dense(*model(rows["image"], rows["caption"])).backward()
    for found in results(run_ranks(2, one_rank_of_a_script)):
        assert found.keys() == gradients(model).keys()
        for name, true in gradients(model).items():
            assert (found[name] - true).abs().max() <= 1e-6, name


def test_the_gradient_cache_gives_your_encoders_the_gradient_of_the_whole_batch():
    towers = ToyTowers(dropout=0.0)
    rows, scale = ToyPairs(10)[slice(None)], torch.tensor(14.3)
    batch = {"image": rows["image"], "text": rows["caption"]}
    optimizer = torch.optim.SGD(towers.parameters(), lr=0.0)
    given = {"image_encoder": towers.encode_image, "text_encoder": towers.encode_text, "scale": scale}
    loss = use("gradient_cache", batch=batch, optimizer=optimizer, **given).loss
    found = gradients(towers)
    towers.zero_grad()
    true = dense(towers.encode_image(batch["image"]), towers.encode_text(batch["text"]), scale)
    true.backward()
    assert loss.item() == pytest.approx(true.item(), abs=1e-6)
    assert all((found[name] - grad).abs().max() <= 1e-6 for name, grad in gradients(towers).items())


# Language models


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trainer_of_transformers_learns_the_same_without_logits(accumulate):
    from transformers import Trainer, TrainingArguments

    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(4, VOCABULARY, (9,), generator=generator).tolist()} for _ in range(8)]
    rows = [row | {"labels": [-100] * (1 + k % 4) + row["input_ids"][1 + k % 4 :]} for k, row in enumerate(rows)]
    settings = {"per_device_train_batch_size": 4 // accumulate, "gradient_accumulation_steps": accumulate}
    args = TrainingArguments(UNUSED, max_steps=3, learning_rate=1e-2, **settings, **QUIET)
    lean, plain = tiny_llama(torch.float64), tiny_llama(torch.float64)
    for trainer, model in ((use("token_logps").LeanTrainer, lean), (Trainer, plain)):
        trainer(model, args, train_dataset=rows).train()
    assert_equal_weights(lean, plain, 1e-5)  # the other one computes its loss in fp32
    with pytest.raises(AssertionError):
        assert_equal_weights(lean, tiny_llama(torch.float64), 1e-3)


@pytest.mark.parametrize("loss_type", ["simpo", "sigmoid"])
def test_logo_trains_on_the_rows_and_the_settings_of_a_trl_script(loss_type):
    trl = pytest.importorskip("trl.experimental.cpo", reason="trl is not installed", exc_type=ImportError)
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    cpo = trl.CPOConfig(UNUSED, loss_type=loss_type, beta=0.2, simpo_gamma=0.6, cpo_alpha=0.0, **settings, **QUIET)
    rows = [{**row, "rejected": row["rejected"][0]} for row in toy_rows(4)]
    dataset = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    model = tiny_llama(torch.float64)
    before = copy.deepcopy(model)
    trainer = use("trl", cpo=cpo, dataset=dataset, model=model, tokenizer=toy_tokenizer()).trainer
    assert trainer.state.global_step == 2
    batch = trainer.pack(some_rows(trainer, 4))
    sums, means = scores_apart(before, batch)
    scores = means if loss_type == "simpo" else sums
    kept = {name: getattr(cpo, name) for name in ("beta", "simpo_gamma", "loss_type", "label_smoothing")}
    state = SimpleNamespace(**kept, alpha=0.0, accelerator=SimpleNamespace(device="cpu"))
    theirs = trl.CPOTrainer.cpo_loss(state, scores[:, 0], scores[:, 1])[0].mean().item()
    assert trainer.objective(before, batch)[0].item() == pytest.approx(theirs, rel=1e-5)
    assert trainer.objective(model, batch)[0].item() < theirs  # it has learned


def test_far_positions_and_packed_answers_score_as_full_sequences_do():
    texts, tokenizer, model = ["w1 w2 w3", "w4 w5"], toy_tokenizer(), tiny_llama(torch.float64)
    answers = [[9, 10, 1], [11, 1]]
    found = use("positions", texts=texts, tokenizer=tokenizer, answers=answers, model=model)
    assert found.positions[-1] > 5
    for answer, score in zip(answers, found.logps[0]):
        ids = torch.tensor([token for chunk in found.chunks for token in chunk] + answer)
        positions = torch.cat([found.positions, found.positions[-1] + 1 + torch.arange(len(answer))])
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()[None, None]
        logits = model(input_ids=ids[None], position_ids=positions[None], attention_mask=mask).logits[0]
        every = torch.log_softmax(logits, -1)[range(4, len(ids) - 1), answer]
        assert score.item() == pytest.approx(every.mean().item(), abs=1e-6)


def test_any_function_that_answers_makes_pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"Lisbon": "amber", "Oslo": "copper", "Cairo": "silk"}
    text = "".join(f"by the old stone wall {name} keeps {thing}. " for name, thing in places.items())  # 8 words each
    questions = [
        {"context": text, "question": f"What does {name} keep?", "answer": thing} for name, thing in places.items()
    ]

    def client(prompt):
        """It knows what it reads, and guesses otherwise."""
        name = re.search(r"What does (\w+) keep", prompt)[1]
        return places[name] if f"{name} keeps" in prompt else f"nothing, for {len(prompt)} letters say so"

    rows = use("pairs", client=client, questions=questions).rows
    assert [row["chosen"] for row in rows] == list(places.values())
    assert all(row["chosen"] not in row["rejected"][0] for row in rows)
    assert (tmp_path / "pairs.jsonl").exists()


def test_your_own_fold_is_the_logsumexp_of_all_blocks():
    blocks = [100 * torch.randn(5, width) for width in (1, 7, 3)]
    total = use("merge", rows=5, blocks=blocks).total
    assert torch.allclose(total, torch.cat(blocks, 1).logsumexp(1))


# Copy instead of install

LIFTED = """
import sys, torch
from minilib.losses.contrastive import clip_loss, siglip_loss
torch.manual_seed(0)
image, text = (torch.nn.functional.normalize(torch.randn(70, 8), dim=1).requires_grad_() for _ in range(2))
for loss, terms in ((clip_loss, (14.0,)), (siglip_loss, (10.0, -10.0))):
    both = [loss(image, text, *terms, backend=backend) for backend in ("dense", "tiled")]
    grads = [torch.autograd.grad(value, (image, text)) for value in both]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads)), loss
"""
ALL_LIFTED = """
from minilib import logo_loss, token_logps
from minilib.losses import contrastive_ring
logps = token_logps(torch.randn(6, 8), torch.randn(40, 8), torch.arange(6))
logo_loss(logps[:2], logps[2:].view(2, 2), beta=10.0, gamma=3.0, sft_weight=0.1)
"""
LOADED = """
from pathlib import Path
loaded = [Path(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "minilib"]
print(*sorted(path.relative_to(Path.cwd() / "minilib").as_posix() for path in loaded))
print("transformers" in sys.modules or "datasets" in sys.modules)
"""


def lifted_files():
    """The files of each row of the page's table; every row stands on those above it."""
    table = (ROOT / PAGE).read_text().partition("## Copy instead of install")[2]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    return [re.findall(r"`([\w/]+\.py)`", row) for row in rows]


@pytest.mark.parametrize(("rows", "code"), [(1, LIFTED), (4, LIFTED + ALL_LIFTED)])
def test_copied_files_run_alone_and_none_is_left_over(tmp_path, rows, code):
    files = [file for row in lifted_files()[:rows] for file in row]
    for file in files:
        (tmp_path / "minilib" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "minilib" / file, tmp_path / "minilib" / file)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code + LOADED]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [" ".join(sorted(files)), "False"]
    assert len(lifted_files()[0]) == 13  # as the README says


@pytest.mark.parametrize("file", ["lse.py", "trainers/grad_cache.py"])
def test_a_file_that_runs_alone_imports_nothing_of_ours(file):
    assert not [there for there, _ in imported((ROOT / "minilib" / file).read_text()) if there.startswith("minilib")]
