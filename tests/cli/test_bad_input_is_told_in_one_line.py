"""Whatever is wrong with a command, a file, a folder or an argument is told in one line that names it and the fix.

Every case is run in this process: a command must end with status 2 (1 where training diverged), say one line of
`minilib: ...`, and say it within ten seconds; a function of the library must raise a ValueError or TypeError of one
line. What each line has to name stands next to the case. Nothing may be accepted in silence, nothing may be a
traceback. A case that another test file holds is not repeated here.
"""

import json
import re
import shutil
import struct
import time
import zlib
from pathlib import Path

import pytest
import torch
from support.toys import ToyPairs, ToyTowers

import minilib.__main__ as main_module
import minilib.cli.logo  # noqa: F401, so that no case pays for importing transformers
from minilib import ContrastiveTrainer, clip_loss, siglip_loss, token_logps
from minilib.longcontext import pack_answers, synthesize_positions
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
from minilib.losses.preference import dpo_loss, logo_loss, orpo_loss, simpo_loss

SECONDS = 10


def png(side=8):
    """A small grey picture, encoded by hand."""
    raw = b"".join(b"\0" + bytes([90]) * (3 * side) for _ in range(side))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = {"prompt": "a b. What?", "chosen": "yes", "rejected": ["no", "never"], "chunks": ["a b."]}
FILES = {
    "a_file": "just a file",
    "tour/metrics.json": "{",
    "list.yaml": "- 1\n- 2\n",
    "scalar.yaml": "forty-two\n",
    "empty.yaml": "",
    "open.yaml": "pairs: [1\n",
    "tab.yaml": "pairs:\n\t- 1\n",
    "tag.yaml": "data: !!python/object/apply:os.system ['touch {place}/mark']\n",
    "twice.yaml": "pairs: 64\npairs: 65\n",
    "unknown.yaml": "pears: 64\n",
    "dashes.yaml": "batch-size: 64\n",
    "wrong.yaml": "pairs: many\n",
    "nested.yaml": "pairs: {a: 1}\n",
    "nan.yaml": "lr: .nan\n",
    "null.yaml": "output: null\n",
    "blank.yaml": "output: ''\n",
    "deep.yaml": "pairs: " + "[" * 3000 + "\n",
    "latin.yaml": "data: Zürich\n".encode("latin-1"),
    "nul.yaml": b"data: a\0b\n",
    "steps.yaml": "steps: -4\n",
    "pairs.txt": "a b\n",
    "empty.jsonl": "",
    "columns.jsonl": lines({"picture": "a.png", "words": "a"}),
    "broken.jsonl": '{"image": "a.png"\n',
    "nocaption.jsonl": lines({"image": "good.png", "caption": "one"}, {"image": "good.png", "caption": None}),
    "blank.jsonl": lines({"image": "good.png", "caption": "one"}, {"image": "good.png", "caption": ""}),
    "nopicture.jsonl": lines({"image": "good.png", "caption": "one"}, {"image": "gone.png", "caption": "two"}),
    "badpicture.jsonl": lines({"image": "bad.png", "caption": "one"}),
    "good.png": png(),
    "bad.png": png()[:40],
    "broken.parquet": b"PAR1 but no more",
    "no_pair.jsonl": lines({"prompt": "a"}),
    "no_chosen.jsonl": lines(GOOD, GOOD | {"chosen": None}),
    "blank_chosen.jsonl": lines(GOOD, GOOD | {"chosen": " "}),
    "few_rejected.jsonl": lines(GOOD, GOOD | {"rejected": ["no"]}),
    "wrong_chunk.jsonl": lines(GOOD, GOOD | {"chunks": ["elsewhere"]}),
    "no_chunks.jsonl": lines({name: GOOD[name] for name in ("prompt", "chosen", "rejected")}),
    "no_answer.jsonl": lines({"context": "a", "question": "b", "answer": ""}),
    "good.jsonl": lines(GOOD, GOOD),
}
RUNS = {  # folders of runs that something has happened to
    "list/model.json": "[1, 2]",
    "open/model.json": '{"vocabulary": ["a"',
    "keys/model.json": '{"words": []}',
    "type/model.json": '{"vocabulary": ["a"], "dim": "many"}',
    "words/model.json": '{"vocabulary": 5, "dim": 8}',
    "gone/model.json": '{"vocabulary": ["a"], "dim": 8}',
    "settings/settings.json": '{"command": "clip"',
    "settings_list/settings.json": "[1]",
    "unfinished_clip/settings.json": '{"command": "clip"}',
    "unfinished_logo/settings.json": '{"command": "logo"}',
    "of_logo/settings.json": '{"command": "logo", "steps": 3}',
    "of_clip/settings.json": '{"command": "clip", "steps": 3}',
    "stranger/checkpoint.pt": "?",
    "adapter/adapter_config.json": "{}",
    "config/config.json": "{",
    "architecture/config.json": '{"model_type": "no_such_model"}',
    "records/settings.json": "{}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that is broken in it."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in {**FILES, **{f"runs/{name}": text for name, text in RUNS.items()}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content.replace("{place}", str(folder)) if isinstance(content, str) else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "folder").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(png())
    return folder


def refused(capfd, arguments):
    """The one line of a command that cannot be done."""
    capfd.readouterr()
    started = time.monotonic()
    with pytest.raises(SystemExit) as end:
        main_module.main(arguments)
    seconds = time.monotonic() - started
    err = capfd.readouterr().err
    assert end.value.code == 2, err
    assert "Traceback" not in err
    found = [line for line in re.split(r"[\r\n]", err) if line.startswith("minilib: ")]
    assert len(found) == 1, err
    assert seconds < SECONDS
    return found[0]


CLIP = "clip --output {place}/new --pairs 64 --batch_size 32 --steps 2 "
LOGO = "logo --output {place}/newlogo --steps 1 "
COMMANDS = {  # command line: what its line must name
    "": ["no command", "clip"],
    "clop": ["'clop'", "did you mean clip?"],
    "Logo": ["'Logo'", "did you mean logo?"],
    "evla": ["'evla'", "did you mean eval?"],
    "train": ["'train'", "choose from"],
    "--versoin": ["--versoin", "did you mean --version?"],
    "--output x": ["'x'", "choose from"],
    "bench": ["contrastive", "gpu"],
    "bench contrastive --device gpu": ["device is 'gpu'"],
    "tour --output {place}/tour": ["metrics.json is damaged", "delete it"],
    "tour --size huge": ["size is 'huge'"],
    "tour --output {place}/a_file": ["a_file", "choose another path"],
    "bench contrastiv": ["'contrastiv'", "did you mean contrastive?"],
    "bench step --baches 3": ["--baches", "flag of step"],
    "doctor --now": ["--now", "doctor"],
    "tour extra": ["'extra'"],
    "clip scenes": ["'scenes'", "--output scenes"],
    "clip --pears 3": ["--pears", "did you mean --pairs?"],
    "clip --batch-sise 3": ["--batch_sise", "did you mean --batch_size?"],
    "clip --pair 3": ["--pair", "did you mean --pairs?"],
    "clip --lr=": ["lr"],
    "clip --qqqq 3": ["--qqqq", "choose from"],
    "clip --pairs": ["--pairs", "no value"],
    "clip --pairs abc": ["pairs", "'abc'", "whole number"],
    "clip --pairs 1.5": ["pairs", "'1.5'", "whole number"],
    "clip --pairs 1e3": ["pairs", "whole number"],
    "clip --pairs true": ["pairs", "whole number"],
    "clip --pairs []": ["pairs", "whole number"],
    "clip --steps 0x": ["steps", "whole number"],
    "clip --lr abc": ["lr", "'abc'", "finite number"],
    "clip --lr nan": ["lr", "finite number"],
    "clip --lr inf": ["lr", "finite number"],
    "clip --lr -inf": ["lr"],
    "clip --lr 1e999": ["lr", "finite number"],
    "clip --timeout 1e999": ["timeout", "finite number"],
    "logo --lora_alpha 1e999": ["lora_alpha", "finite number"],
    "clip --output=": ["output is empty"],
    "eval --run=": ["run is empty"],
    "logo --model=": ["model is empty"],
    "logo --config {place}/blank.yaml": ["blank.yaml", "output"],
    "clip --timeout nan": ["timeout", "finite number"],
    "clip --seed 1.0": ["seed", "whole number"],
    "logo --stpes 3": ["--stpes", "did you mean --steps?"],
    "logo --learning-rat 3": ["--learning_rat", "did you mean --learning_rate?"],
    "logo --steps 1.5": ["steps", "whole number"],
    "logo --lora_modules q_proj": ["lora_modules", "'q_proj'", "list", """a list such as '["q_proj"]'."""],
    "bench alignment --arms LOGO": ["arms", """a list such as '["LOGO"]'."""],
    "bench alignment --seeds 1,2": ["seeds", "a list such as '[1,2]'."],
    "bench alignment --texts 4000:4": ["texts", "a table such as '{1000: 8}'."],
    "bench step --rejected 1,8": ["rejected", "a list such as '[1,2]'."],
    "bench contrastive --batches 64": ["batches", "a list such as '[1,2]'."],
    "logo --gradient_checkpointing maybe": ["gradient_checkpointing", "true or false"],
    "logo --beta nan": ["beta", "nan"],
    "logo --temperature inf": ["temperature", "finite number"],
    "eval --lengths 5": ["lengths", "'5'", "[96,224]"],
    "eval --lengths [a]": ["lengths", "[96,224]"],
    "eval --base maybe": ["base", "true or false"],
    "eval --samples x": ["samples", "whole number"],
    "eval --lenghts [64]": ["--lenghts", "did you mean --lengths?"],
    # --config
    "clip --config": ["--config", "no value"],
    "clip --config {place}/nowhere.yaml": ["nowhere.yaml", "is no file"],
    "clip --config {place}/folder": ["folder", "is no file"],
    "clip --config=": ["config is empty"],
    "clip --config {place}/list.yaml": ["list.yaml", "holds no settings"],
    "clip --config {place}/scalar.yaml": ["scalar.yaml", "holds no settings"],
    "clip --config {place}/empty.yaml": ["empty.yaml", "holds no settings"],
    "clip --config {place}/open.yaml": ["open.yaml, line 2", "fix the file"],
    "clip --config {place}/tab.yaml": ["tab.yaml, line 2", "fix the file"],
    "clip --config {place}/tag.yaml": ["tag.yaml, line 1", "python/object"],
    "clip --config {place}/twice.yaml": ["twice.yaml, line 2", "'pairs' comes twice"],
    "clip --config {place}/unknown.yaml": ["unknown.yaml", "'pears'", "did you mean pairs?"],
    "clip --config {place}/dashes.yaml": ["dashes.yaml", "'batch-size'", "did you mean batch_size?"],
    "clip --config {place}/wrong.yaml": ["pairs", "'many'", "whole number"],
    "clip --config {place}/nested.yaml": ["pairs", "whole number"],
    "clip --config {place}/nan.yaml": ["lr is nan", "finite number"],
    "clip --config {place}/deep.yaml": ["deep.yaml"],
    "clip --config {place}/null.yaml": ["null.yaml has nothing as output"],
    "--output x clip": ["'x' stands before the command", "begin with clip"],
    "clip --output=~/../../..{place}/a_file": ["a_file", "choose another path"],
    "clip --data {place}/pictures --output {place}/pictures": ["pictures is the folder of the data"],
    "clip --config {place}/latin.yaml": ["latin.yaml", "not UTF-8"],
    "clip --config {place}/nul.yaml": ["nul.yaml"],
    "clip --config {place}/good.png": ["good.png"],
    "logo --config {place}/unknown.yaml": ["'pears'", "setting of logo"],
    "logo --config {place}/steps.yaml --output {place}/newlogo": ["steps is -4"],
    "--config {place}/unknown.yaml clip": ["'pears'"],
    # settings of clip
    CLIP + "--pairs 0": ["pairs is 0", "positive whole number"],
    CLIP + "--pairs -5": ["pairs is -5"],
    CLIP + "--data digits --pairs 100000000": ["pairs is 100,000,000", "GB"],
    CLIP + "--data digits --pairs 10000000000": ["pairs is 10000000000"],
    CLIP + "--dim 0": ["dim is 0"],
    CLIP + "--dim 1000000000": ["dim is 1,000,000,000", "GB"],
    CLIP + "--batch_size 0": ["batch_size is 0"],
    CLIP + "--batch_size 1": ["batch_size is 1", "at least 2"],
    CLIP + "--batch_size 65": ["batch_size is 65", "64 rows"],
    CLIP + "--micro_batch_size 0": ["micro_batch_size is 0"],
    CLIP + "--steps 0": ["steps is 0"],
    CLIP + "--steps -1": ["steps is -1"],
    CLIP + "--save_every 0": ["save_every is 0"],
    CLIP + "--warmup -1": ["warmup is -1"],
    CLIP + "--lr 0": ["lr is 0"],
    CLIP + "--lr -0.1": ["lr is -0.1"],
    CLIP + "--seed -1": ["seed is -1"],
    CLIP + "--seed 4294967296": ["seed is 4294967296", "below 2^32"],
    CLIP + f"--seed {2**70}": [f"seed is {2**70}", "below 2^32"],
    CLIP + "--loss hinge": ["loss 'hinge'", "'clip', 'siglip'"],
    CLIP + "--backend magic": ["backend 'magic'"],
    CLIP + "--backend ring": ["backend is 'ring'"],
    CLIP + "--frozen audio": ["frozen is 'audio'"],
    CLIP + "--frozen=": ["frozen is empty"],
    CLIP + "--timeout 0": ["timeout is 0.0"],
    CLIP + "--timeout -3": ["timeout is -3.0"],
    CLIP + "--data=": ["data is empty"],
    CLIP + "--data nowhere": ["'nowhere'", "does not exist"],
    # data of clip
    CLIP + "--data {place}/pairs.txt": ["pairs.txt"],
    CLIP + "--data {place}/empty.jsonl": ["empty.jsonl"],
    CLIP + "--data {place}/columns.jsonl": ["'image'"],
    CLIP + "--data {place}/broken.jsonl": ["broken.jsonl", "could not be read"],
    CLIP + "--data {place}/broken.parquet": ["broken.parquet", "could not be read"],
    CLIP + "--data {place}/nocaption.jsonl": ["'caption'", "row 1"],
    CLIP + "--data {place}/blank.jsonl": ["'caption'", "row 1"],
    CLIP + "--data {place}/nopicture.jsonl": ["'image'", "row 1"],
    CLIP + "--data {place}/badpicture.jsonl": ["'image'", "row 0"],
    CLIP + "--data {place}/folder": ["folder"],
    CLIP + "--data {place}/pictures": ["pictures", "captions"],
    # output of clip
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/a_file": ["a_file", "choose another path"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/a_file/run": ["a_file", "choose another path"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/" + "x" * 300: ["name too long", "shorter"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output /sys/minilib": ["/sys/minilib", "where you may"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/runs/of_logo": ["of_logo", "`logo` run"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/runs/stranger": ["checkpoint.pt", "another run"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/runs/settings": ["damaged settings.json"],
    "clip --pairs 64 --batch_size 32 --steps 1 --output {place}/runs/settings_list": ["damaged settings.json"],
    # eval
    "eval --run {place}/nowhere": ["nowhere", "holds no trained model"],
    "eval --run {place}/a_file": ["a_file"],
    "eval --run {place}/folder": ["folder", "holds no trained model"],
    "eval --run {place}/runs/list": ["model.json", "damaged"],
    "eval --run {place}/runs/open": ["model.json", "damaged"],
    "eval --run {place}/runs/keys": ["model.json", "damaged"],
    "eval --run {place}/runs/type": ["model.json", "damaged"],
    "eval --run {place}/runs/words": ["model.json"],
    "eval --run {place}/runs/gone": ["checkpoint.pt", "missing"],
    "eval --run {place}/runs/settings": ["damaged settings.json"],
    "eval --run {place}/runs/unfinished_clip": ["not finished", "python -m minilib clip"],
    "eval --run {place}/runs/unfinished_logo": ["not finished", "python -m minilib logo"],
    "eval --run {place}/runs/adapter": ["base_model_name_or_path"],
    "eval --run {place}/runs/config": ["runs/config"],
    "eval --run {place}/runs/architecture": ["no_such_model"],
    "eval --run {place}/runs/gone --pairs 0": ["pairs is 0"],
    f"eval --run {{place}}/runs/gone --seed {2**70}": ["seed is", "below 2^32"],
    "eval --model nowhere/nothing": ["'nowhere/nothing'"],
    "eval --model {place}/folder": ["folder"],
    "eval --model tiny --samples 0": ["samples is 0"],
    "eval --model tiny --lengths [1]": ["lengths [1]"],
    "eval --model tiny --lengths [64,100000000]": ["lengths has 100000000", "64 windows"],
    "eval --model tiny --dtype int8": ["dtype 'int8'"],
    "eval --model tiny --attention flash": ["attention 'flash'"],
    # logo
    LOGO + "--data {place}/nowhere.jsonl": ["nowhere.jsonl"],
    LOGO + "--data {place}/folder": ["folder"],
    LOGO + "--data=": ["data is empty"],
    LOGO + "--data {place}/no_pair.jsonl": ["['prompt']", "chosen"],
    LOGO + "--data {place}/no_chosen.jsonl": ["'chosen'", "row 1"],
    LOGO + "--data {place}/blank_chosen.jsonl": ["row 1", "chosen"],
    LOGO + "--data {place}/few_rejected.jsonl": ["row 1", "num_rejected"],
    LOGO + "--data {place}/wrong_chunk.jsonl": ["row 1", "'elsewhere'"],
    LOGO + "--target 512 --data {place}/no_chunks.jsonl": ["chunks", "target_length 0"],
    LOGO + "--data {place}/no_answer.jsonl": ["'answer'", "row 0"],
    LOGO + "--data {place}/empty.jsonl": ["empty.jsonl"],
    LOGO + "--data {place}/broken.jsonl": ["broken.jsonl"],
    LOGO + "--data {place}/good.jsonl --output {place}/a_file": ["a_file", "choose another path"],
    LOGO + "--data {place}/good.jsonl --output {place}/a_file/x": ["a_file", "choose another path"],
    LOGO + "--data {place}/good.jsonl --output /sys/minilib": ["/sys/minilib", "where you may"],
    LOGO + "--data {place}/good.jsonl --output {place}/" + "y" * 300: ["name too long"],
    LOGO + "--data {place}/good.jsonl --output {place}/runs/of_clip": ["of_clip", "`clip` run"],
    LOGO + "--data {place}/good.jsonl --output {place}/runs/stranger": ["checkpoint.pt", "another run"],
    LOGO + "--data {place}/good.jsonl --output {place}/runs/settings": ["damaged settings.json"],
    LOGO + "--model {place}/folder": ["folder"],
    LOGO + "--model nowhere/nothing": ["'nowhere/nothing'"],
    LOGO + "--model {place}/runs/adapter": ["adapter"],
    LOGO + "--model {place}/runs/architecture": ["no_such_model"],
    LOGO + "--steps 0": ["steps is 0"],
    LOGO + "--lr -1": ["learning_rate is -1.0"],
    LOGO + "--warmup -1": ["warmup is -1"],
    LOGO + "--rows 0": ["rows is 0"],
    LOGO + "--num-rejected 0": ["num_rejected is 0"],
    LOGO + "--loss ppo": ["loss_type 'ppo'"],
    LOGO + "--positions far": ["position_mode 'far'"],
    LOGO + "--rope far": ["rope 'far'"],
    LOGO + "--rope ntk --target 0": ["rope is 'ntk'"],
    LOGO + "--scorer magic": ["scorer 'magic'"],
    LOGO + "--lora_rank -1": ["lora_rank is -1"],
    LOGO + "--lora_rank 0": ["learning_rate"],
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_refused_in_one_line(line, place, capfd):
    told = refused(capfd, line.replace("{place}", str(place)).split(" ") if line else [])
    for words in COMMANDS[line]:
        assert words in told, told
    assert not (place / "mark").exists()


# Checkpoints of clip that something has happened to, seen by eval


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    main_module.main(
        ["clip", "--output", str(folder), "--pairs", "32", "--batch_size", "16", "--steps", "2", "--dim", "8"]
    )
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def without_model(path):
    torch.save({"records": []}, path)


DAMAGES = {"cut": cut, "flipped": flip, "missing": Path.unlink, "empty": lambda p: p.write_bytes(b""),
           "another file": lambda p: p.write_text("hello"), "without a model": without_model}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_eval_tells_of_a_damaged_checkpoint(damage, trained, tmp_path, capfd):
    shutil.copytree(trained, tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / "checkpoint.pt")
    told = refused(capfd, ["eval", "--run", str(tmp_path / "run"), "--pairs", "16"])
    assert "checkpoint.pt" in told


# The library


def trainer(**settings):
    return ContrastiveTrainer(ToyTowers(), ToyPairs(24), **({"batch_size": 8, "steps": 2} | settings))


A, NAN = torch.randn(4, 8), torch.full((4, 8), torch.nan)
LOGPS = torch.randn(3), torch.randn(3, 2)
CALLS = {
    "trainer, fractional batch": (lambda: trainer(batch_size=2.5), "batch_size is 2.5"),
    "trainer, text as steps": (lambda: trainer(steps="3"), "steps is '3'"),
    "trainer, true as steps": (lambda: trainer(steps=True), "steps is True"),
    "trainer, one pair": (lambda: trainer(batch_size=1), "batch_size is 1"),
    "trainer, lr nan": (lambda: trainer(lr=float("nan")), "lr is nan"),
    "trainer, lr inf": (lambda: trainer(lr=float("inf")), "lr is inf"),
    "trainer, lr 0": (lambda: trainer(lr=0.0), "lr is 0.0"),
    "trainer, lr text": (lambda: trainer(lr="1e-3"), "lr is '1e-3'"),
    "trainer, warm-up": (lambda: trainer(warmup=-1), "warmup is -1"),
    "trainer, seed": (lambda: trainer(seed=2**70), "seed is"),
    "trainer, negative seed": (lambda: trainer(seed=-1), "seed is -1"),
    "trainer, save_every": (lambda: trainer(save_every=0.5), "save_every is 0.5"),
    "clip_loss, a list": (lambda: clip_loss([1.0], A, 10.0), "image_features is a list"),
    "clip_loss, NaN": (lambda: clip_loss(A, NAN, 10.0), "text_features has NaN"),
    "clip_loss, rows": (lambda: clip_loss(A, A[:2], 10.0), "4 rows"),
    "clip_loss, width": (lambda: clip_loss(A, A[:, :2], 10.0), "width"),
    "clip_loss, scale": (lambda: clip_loss(A, A, float("inf")), "logit_scale is inf"),
    "clip_loss, whole numbers": (lambda: clip_loss(A.long(), A.long(), 1.0), "dtype"),
    "siglip_loss, bias": (lambda: siglip_loss(A, A, 1.0, float("nan")), "logit_bias is nan"),
    "siglip_loss, no rows": (lambda: siglip_loss(A[:0], A[:0], 1.0, 0.0), "empty"),
    "token_logps, labels": (lambda: token_logps(A, A, torch.tensor([0, 1, 2, 9])), "labels has 9"),
    "token_logps, float labels": (lambda: token_logps(A, A, torch.ones(4)), "labels"),
    "token_logps, chunk": (lambda: token_logps(A, A, torch.arange(4), chunk_size=0), "chunk_size is 0"),
    "logo_loss, beta": (lambda: logo_loss(*LOGPS, beta=-1.0, gamma=0.0, sft_weight=0.1), "beta is -1.0"),
    "logo_loss, gamma": (lambda: logo_loss(*LOGPS, beta=1.0, gamma=float("nan"), sft_weight=0.1), "gamma is nan"),
    "simpo_loss, a list": (lambda: simpo_loss([0.1], [0.2], beta=1.0, gamma=0.0), "list"),
    "dpo_loss, beta": (lambda: dpo_loss(*[LOGPS[0]] * 4, beta=0.0), "beta is 0.0"),
    "orpo_loss, shapes": (lambda: orpo_loss(LOGPS[0], LOGPS[0][:2]), "shape"),
    "positions, target": (lambda: synthesize_positions([5, 5], 3), "target"),
    "positions, mode": (lambda: synthesize_positions([5, 5], 30, mode="far"), "mode"),
    "pack_answers, none": (lambda: pack_answers([1, 2], []), "answers"),
    "logo from hidden, M": (
        lambda: logo_loss_from_hidden(A, A, torch.arange(4), torch.arange(4), num_rejected=0, beta=1.0, gamma=0.0),
        "num_rejected is 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_a_call_of_the_library_is_refused_in_one_line(case):
    call, words = CALLS[case]
    with pytest.raises((ValueError, TypeError), match=re.escape(words)) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_there_are_at_least_two_hundred_of_them():
    assert len(COMMANDS) + len(DAMAGES) + len(CALLS) >= 200
