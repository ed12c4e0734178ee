"""A rank and its neighbours on a ring: one interface, over `torch.distributed` or over threads in one process.

    send_recv     give a block to the next rank and take one from the previous rank: posted now, waited for later
    all_reduce    the sum, or the largest, of a tensor over all ranks; `all_gather`: a few numbers of every rank
    run           call a function with this interface: once in a process, or once for each rank of a `LocalRing`

`RingComm` is the rank of this process in a group, `LocalRing` runs the same function on one thread per rank, for
lessons and tests. Both may keep a `Trace` of what was sent and worked on: pictures and byte counts come from it.
A lost rank becomes one sentence of its neighbours, who learn of it from their connection or after the timeout of the
group, and stop; so do their own neighbours then. Nothing waits for ever.
Taught in notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

from __future__ import annotations  # a torch without distributed has no ProcessGroup to name

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

TAGS = {"texts": 1, "gradients": 2}  # both kinds may be under way between the same two ranks
LATE = ("imed out", "imeout")  # words by which gloo and NCCL say that a rank is silent,
GONE = ("onnection", "losed", "roken pipe", "remote process", "aborted")  # and that it has left


class Entry(NamedTuple):
    """One line of the trace: `rank` did `what` at `step` with the rows of `owner`; `sent` bytes went to rank `to`."""

    rank: int
    step: int | None
    what: str
    owner: int | None
    to: int | None
    sent: int


class Trace(list[Entry]):
    """What the ranks did, in order: their messages ("texts", "gradients", "columns", ...) and their work."""

    def sent(self, rank: int) -> dict[str, int]:
        """Bytes that `rank` sent, by kind of message."""
        kinds = Counter()
        for entry in self:
            kinds[entry.what] += entry.sent if entry.rank == rank else 0
        return {kind: size for kind, size in kinds.items() if size}


class Comm:
    """What a rank of a ring can do; the two classes below carry the messages."""

    def __init__(self, rank: int, world_size: int, trace: Trace | None, device: str = "cpu"):
        self.rank, self.world_size, self.trace, self.device = rank, world_size, trace, device
        self.following, self.previous = (rank + 1) % world_size, (rank - 1) % world_size

    def owner(self, step: int) -> int:
        """The rank whose block is here at `step`; after a whole round it is the own one again."""
        return (self.rank - step) % self.world_size

    def note(self, what: str, sent: int = 0, step: int | None = None, to: int | None = None) -> None:
        """One line for the trace; a ring of one rank sends nothing."""
        if self.trace is not None and (self.world_size > 1 or not sent):
            owner = None if step is None else self.owner(step)
            self.trace.append(Entry(self.rank, step, what, owner, to, sent))

    def send_recv(self, what: str, step: int, tensor: Tensor, rows: int) -> Callable[[], Tensor]:
        """Start to give `tensor` to the next rank and to take `rows` rows from the previous one.

        Returns a function that waits for them; `tensor` must stay as it is until then.
        """
        self.note(what, tensor.nbytes, step, self.following)
        return self._post(what, step, tensor, rows)

    def all_reduce(self, what: str, tensor: Tensor, op: str = "sum") -> Tensor:
        """The "sum" or the "max" of `tensor` over all ranks, a new tensor."""
        self.note(what, tensor.nbytes)
        return self._reduce(what, tensor, op)

    def all_gather(self, what: str, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, in the order of the ranks."""
        self.note(what, 8 * len(numbers))
        table = torch.zeros(self.world_size, len(numbers), dtype=torch.float64, device=self.device)
        table[self.rank] = torch.tensor(numbers, dtype=torch.float64)  # everybody else has 0 in this row
        return self._reduce(what, table, "sum").tolist()


class RingComm(Comm):
    """The rank of this process in `group`; ConnectionError, in one sentence, when another rank is lost."""

    local_ranks = 1

    def __init__(self, group: dist.ProcessGroup, trace: Trace | None = None):
        self.group, config = group, dist.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
        self.backends = dict(part.split(":") for part in config.split(","))
        device = "cpu" if "cpu" in self.backends else "cuda"  # of the numbers that all ranks exchange
        super().__init__(dist.get_rank(group), dist.get_world_size(group), trace, device)

    def run(self, function: Callable[..., Any], *per_rank: Sequence[Any]) -> list[Any]:
        """`function(comm, ...)` for the one rank that lives in this process; a list with its result."""
        return [function(self, *(arguments[0] for arguments in per_rank))]

    def _post(self, what: str, step: int, tensor: Tensor, rows: int) -> Callable[[], Tensor]:
        arriving = tensor.new_empty(rows, *tensor.shape[1:])
        send = dist.P2POp(dist.isend, tensor, group=self.group, tag=TAGS[what], group_peer=self.following)
        receive = dist.P2POp(dist.irecv, arriving, group=self.group, tag=TAGS[what], group_peer=self.previous)
        calls = [([self.following, self.previous], [send, receive])]
        if self.backends[tensor.device.type] != "nccl":
            # NCCL needs both directions in one call; elsewhere two calls tell which neighbour an error comes from.
            calls = [([self.following], [send]), ([self.previous], [receive])]
        # Gradients set out one step later than texts: both name the step at which they arrive.
        where = f"ring step {step + (what == 'texts')} of {self.world_size - 1}, {what}"
        pending = []
        for peers, operations in calls:
            with lost_ranks_named(self.rank, where, peers):
                pending += [(peers, work) for work in dist.batch_isend_irecv(operations)]

        def wait() -> Tensor:
            for peers, work in pending:
                with lost_ranks_named(self.rank, where, peers):
                    work.wait()
            return arriving

        return wait

    def _reduce(self, what: str, tensor: Tensor, op: str) -> Tensor:
        total = tensor.clone()
        with lost_ranks_named(self.rank, f"exchange of the {what}"):
            dist.all_reduce(total, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM, group=self.group)
        return total


class LocalRing:
    """`world_size` ranks in one process, threads that take turns; what one sends, the next one holds without a copy."""

    def __init__(self, world_size: int):
        if world_size < 1:
            raise ValueError(f"world_size is {world_size}: give at least one rank.")
        self.world_size, self.local_ranks, self.trace = world_size, world_size, Trace()

    def run(self, function: Callable[..., Any], *per_rank: Sequence[Any]) -> list[Any]:
        """`function(comm, ...)` on every rank; raises the error of the first rank that failed by itself."""
        self.inboxes = [{what: queue.SimpleQueue() for what in TAGS} for _ in range(self.world_size)]
        self.board, self.barrier = [None] * self.world_size, threading.Barrier(self.world_size)
        self.turn, comms = threading.Lock(), [_LocalComm(rank, self) for rank in range(self.world_size)]
        # As many threads as ranks, since each may wait for any other.
        with ThreadPoolExecutor(self.world_size) as pool:
            ranks = [pool.submit(comm.guarded, function, *args) for comm, *args in zip(comms, *per_rank)]
        # All ranks do the same things, so their n-th entries belong together, whichever thread was first.
        for entries in zip_longest(*(comm.trace for comm in comms)):
            self.trace += [entry for entry in entries if entry is not None]
        # A broken barrier only says that another rank failed: that one's own error comes first.
        errors = [rank.exception() for rank in ranks if rank.exception()]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [rank.result() for rank in ranks]


class _LocalComm(Comm):
    """A rank on a thread: an inbox for each kind of block, and a board on which all ranks lay something at once."""

    def __init__(self, rank: int, ring: LocalRing):
        super().__init__(rank, ring.world_size, Trace())
        self.ring = ring

    @torch.no_grad()
    def guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` on this rank; its error wakes the other ranks, who would wait for this one otherwise."""
        try:
            with self.ring.turn:  # one rank computes at a time: Triton's interpreter knows one thread only
                return function(self, *arguments)
        except BaseException:
            self.ring.barrier.abort()
            for box in (box for inbox in self.ring.inboxes for box in inbox.values()):
                box.put(None)
            raise

    def _waiting(self, wait: Callable[[], Any]) -> Any:
        self.ring.turn.release()
        try:
            return wait()
        finally:
            self.ring.turn.acquire()

    def _post(self, what: str, step: int, tensor: Tensor, rows: int) -> Callable[[], Tensor]:
        self.ring.inboxes[self.following][what].put(tensor)
        return lambda: self._taken(what)

    def _taken(self, what: str) -> Tensor:
        if (tensor := self._waiting(self.ring.inboxes[self.rank][what].get)) is None:
            raise threading.BrokenBarrierError
        return tensor

    def _reduce(self, what: str, tensor: Tensor, op: str) -> Tensor:
        self.ring.board[self.rank] = tensor
        self._waiting(self.ring.barrier.wait)
        stack = torch.stack(list(self.ring.board))
        self._waiting(self.ring.barrier.wait)  # nobody may lay down the next thing before all have read this one
        return stack.amax(0) if op == "max" else stack.sum(0)


@contextmanager
def lost_ranks_named(rank: int, where: str, peers: Sequence[int] = ()) -> Iterator[None]:
    """Turn an error of the transport into one sentence of `rank` that says where it happened and names the others."""
    try:
        yield
    except RuntimeError as error:
        # Transports have no error class for this: their words are all there is.
        late = any(word in str(error) for word in LATE)
        if not late and not any(word in str(error) for word in GONE):
            raise  # not the doing of another rank
        who = " or ".join(f"rank {peer}" for peer in dict.fromkeys(peers)) or "another rank"
        what = "did not answer within the timeout of the group" if late else "is gone, its connection was closed"
        told = f"{who} {what}; see that rank's own message, then start all ranks again."
        raise ConnectionError(f"rank {rank}, {where}: {told}") from error
