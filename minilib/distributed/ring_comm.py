"""Who carries the messages of a ring: a virtual ring in one process, or `torch.distributed` between processes.

Both run the same generators: they answer each request and write it into a diary, from which lessons draw their pictures
and tests count bytes. The virtual ring moves all ranks forward in step; a process ring runs the one rank that
lives here, posts a message before the work on the next block begins and waits for it afterwards.

A lost rank becomes one sentence. Its neighbours learn of it from their connection (or after the timeout of the group),
name the hop and the rank, and stop; their own neighbours learn of that in the same way. Nothing waits for ever.

Departure from the paper: Inf-CL uses the default group only and expects shards of one size. Taught in
notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

from __future__ import annotations  # a torch without distributed has no ProcessGroup to name

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from minilib.kernels.ring import Gather, Pass, Program, Total, Work

TAGS = {"texts": 1, "gradients": 2}  # both kinds may be under way between the same two ranks
LATE = ("imed out", "imeout")  # words by which gloo and NCCL say that a rank is silent,
GONE = ("onnection", "losed", "roken pipe", "remote process", "aborted")  # and that it has left


class Entry(NamedTuple):
    """One line of the diary: `rank` did `what` at `step` with the rows of `owner`; `sent` bytes went to `to`."""

    rank: int
    step: int | None
    what: str
    owner: int | None
    to: int | None
    sent: int


class Diary(list[Entry]):
    """What the ranks did, in order: their messages ("texts", "gradients", "columns", ...) and their work."""

    def write(self, rank: int, ranks: int, request: Pass | Work | Gather | Total) -> None:
        """One entry for one request; a ring of one rank sends nothing."""
        if ranks == 1 and not isinstance(request, Work):
            return
        match request:
            case Pass(what, step, owner, tensor):
                self.append(Entry(rank, step, what, owner, (rank + 1) % ranks, tensor.nbytes))
            case Work(what, step, owner):
                self.append(Entry(rank, step, f"work on {what}", owner, None, 0))
            case Gather(what, numbers):
                self.append(Entry(rank, None, what, None, None, 8 * len(numbers)))
            case Total(what, tensor):
                self.append(Entry(rank, None, what, None, None, tensor.nbytes))

    def sent(self, rank: int) -> dict[str, int]:
        """Bytes that `rank` handed on, by kind of message."""
        kinds: dict[str, int] = {}
        for entry in self:
            if entry.rank == rank and entry.sent:
                kinds[entry.what] = kinds.get(entry.what, 0) + entry.sent
        return kinds

    def messages(self, rank: int) -> int:
        """Number of messages from rank to rank that `rank` sent."""
        return sum(entry.rank == rank and entry.to is not None for entry in self)


class VirtualRing:
    """`ranks` ranks in one process: what one hands on, the next holds, without a copy."""

    def __init__(self, ranks: int, diary: Diary | None = None):
        if ranks < 1:
            raise ValueError(f"ranks is {ranks}: give at least one rank.")
        self.ranks, self.here = ranks, range(ranks)
        self.diary = Diary() if diary is None else diary

    def check_device(self, device: torch.device) -> None:
        """Features may lie anywhere: they stay where they are."""

    def run(self, programs: Sequence[Program]) -> list[Any]:
        """Move all programs forward in step, from request to request; returns what each of them returns."""
        answers: list[Any] = [None] * self.ranks
        while True:
            requests, results = [], []
            for program, answer in zip(programs, answers):
                try:
                    requests.append(program.send(answer))
                except StopIteration as end:
                    results.append(end.value)
            if results:
                return results
            for rank, request in enumerate(requests):
                self.diary.write(rank, self.ranks, request)
            answers = self._answer(requests)

    def _answer(self, requests: list[Any]) -> list[Any]:
        match requests[0]:
            case Pass():
                return [Arrived(requests[rank - 1].tensor) for rank in self.here]
            case Gather():
                return [[request.numbers for request in requests]] * self.ranks
            case Total(largest=largest):
                stack = torch.stack([request.tensor for request in requests])
                total = stack.amax(0) if largest else stack.sum(0)
                return [total.clone() for _ in self.here]
        return [None] * self.ranks


class ProcessRing:
    """The rank of this process in `group`.

    Raises:
        ConnectionError: one sentence, when another rank is gone or does not answer within the timeout of the group.
    """

    def __init__(self, group: dist.ProcessGroup, diary: Diary | None = None):
        self.group, self.diary = group, diary
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.here = [self.rank]
        self.carriers = dict(part.split(":") for part in dist.get_backend_config(group).split(","))
        self.device = "cpu" if "cpu" in self.carriers else "cuda"  # of the numbers that all ranks exchange

    def check_device(self, device: torch.device) -> None:
        """Refuse features that lie where the group cannot fetch them."""
        check_carrier(self.carriers, device)

    def run(self, programs: Sequence[Program]) -> list[Any]:
        """Run the one program of this rank to its end; returns a list with what it returns."""
        (program,), answer = programs, None
        while True:
            try:
                request = program.send(answer)
            except StopIteration as end:
                return [end.value]
            if self.diary is not None:
                self.diary.write(self.rank, self.ranks, request)
            answer = self._answer(request)

    def _answer(self, request: Any) -> Any:
        match request:
            case Pass():
                return self._post(request)
            case Gather(what, numbers):
                mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
                everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
                with blame(self.rank, f"exchange of the {what}"):
                    dist.all_gather(everyone, mine, group=self.group)
                    return torch.stack(everyone).tolist()
            case Total(what, tensor, largest):
                total = tensor.clone()
                with blame(self.rank, f"exchange of the {what}"):
                    dist.all_reduce(total, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=self.group)
                return total
        return None

    def _post(self, request: Pass) -> Arriving:
        arriving = request.tensor.new_empty(request.rows, *request.tensor.shape[1:])
        following, previous = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        options = {"group": self.group, "tag": TAGS[request.what]}
        send = dist.P2POp(dist.isend, request.tensor, group_peer=following, **options)
        receive = dist.P2POp(dist.irecv, arriving, group_peer=previous, **options)
        calls = [([following, previous], [send, receive])]
        if self.carriers[request.tensor.device.type] != "nccl":
            # NCCL needs both directions in one call; elsewhere two calls tell which neighbour an error comes from
            calls = [([following], [send]), ([previous], [receive])]
        hop = request.step + (request.what == "texts")  # gradients set out one step later
        where, waits = f"ring hop {hop} of {self.ranks - 1}, {request.what}", []
        for peers, operations in calls:
            with blame(self.rank, where, peers):
                waits += [(peers, work) for work in dist.batch_isend_irecv(operations)]
        return Arriving(arriving, request.tensor, waits, partial(blame, self.rank, where))


class Arrived(NamedTuple):
    """A message that is here already."""

    tensor: Tensor

    def wait(self) -> Tensor:
        return self.tensor


class Arriving(NamedTuple):
    """A message under way; what left with it is kept until it has gone out."""

    tensor: Tensor
    leaving: Tensor
    waits: list[tuple[list[int], Any]]
    blame: Callable[[Sequence[int]], Any]

    def wait(self) -> Tensor:
        """The tensor that the previous rank has sent, as soon as it is whole and the own one has left."""
        for peers, work in self.waits:
            with self.blame(peers):
                work.wait()
        return self.tensor


@contextmanager
def blame(rank: int, where: str, peers: Sequence[int] = ()) -> Iterator[None]:
    """Turn an error of the transport into one sentence of `rank` that says where it happened and names the others."""
    try:
        yield
    except RuntimeError as error:
        late = any(word in str(error) for word in LATE)
        if not late and not any(word in str(error) for word in GONE):
            raise  # not the doing of another rank
        who = " or ".join(f"rank {peer}" for peer in dict.fromkeys(peers)) or "another rank"
        what = "did not answer within the timeout of the group" if late else "is gone, its connection was closed"
        raise ConnectionError(
            f"rank {rank}, {where}: {who} {what}; see that rank's own message, then start all ranks again."
        ) from error


def check_carrier(config: dict[str, str], device: torch.device) -> None:
    """Refuse features on a device that the backends of the group cannot carry."""
    kinds = ", ".join(f"{name} for {kind}" for kind, name in config.items())
    if config.get(device.type) is None:
        raise ValueError(
            f"group carries {kinds} and the features are on {device}: make the group with a backend for "
            f"{device.type}, such as {'nccl' if device.type == 'cuda' else 'gloo'}, or move the features."
        )
    if device.type == "cuda" and config["cuda"] == "gloo":
        raise ValueError(
            f"group carries {kinds} and the features are on {device}: gloo cannot pass on what lies on a card, make "
            "the group with nccl."
        )
