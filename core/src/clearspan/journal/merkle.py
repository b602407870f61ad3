"""The Merkle tree of RFC 6962, section 2.1: hashes, proofs, and what of a tree has to be kept. No I/O.

A tree only ever grows to the right, so a subtree of 2^k leaves never changes once it is full: it is a *node*, named by its level
k and its place on that level. Every hash that a proof or a root needs is made of nodes. Of the nodes only the leaves and every
fourth level are kept (one hash per 16 below it); those between are made again from at most eight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

TILE_LEVELS = 4
TILE = 1 << TILE_LEVELS
EMPTY_ROOT = hashlib.sha256().digest()


class Node(NamedTuple):
    """The full subtree over leaves ``place << level`` up to ``(place + 1) << level``; level 0 is a leaf."""

    level: int
    place: int


class Proof(NamedTuple):
    """What a proof consists of: per hash the leaves it covers, from the first up to and without the second."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def nodes(self) -> set[Node]:
        """The nodes that its hashes are made of."""
        return {node for begin, end in self.ranges for node in subtrees(begin, end)}

    def hashes(self, known: Mapping[Node, bytes]) -> list[bytes]:
        """The proof itself."""
        return [fold([known[node] for node in subtrees(begin, end)]) for begin, end in self.ranges]


def leaf_hash(entry: bytes) -> bytes:
    """Of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def subtrees(begin: int, end: int) -> Iterator[Node]:
    """The fewest nodes that cover these leaves, from left to right."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        if begin:
            level = min(level, (begin & -begin).bit_length() - 1)
        yield Node(level, begin >> level)
        begin += 1 << level


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over nodes of falling size, as ``subtrees`` names them."""
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes)) if hashes else EMPTY_ROOT


def full_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes of one level."""
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def inclusion(index: int, size: int) -> Proof:
    """That a leaf is in the tree of this size (PATH), the lowest hash first."""
    assert 0 <= index < size
    ranges: list[tuple[int, int]] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return Proof(tuple(reversed(ranges)))


def consistency(old: int, new: int) -> Proof:
    """That the tree of the new size begins with the whole tree of the old one (PROOF), the lowest hash first."""
    assert 0 <= old <= new
    if old in (0, new):
        return Proof(())
    ranges: list[tuple[int, int]] = []
    begin, end = 0, new
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    # The old tree's own root is known to whoever asks; any other subtree the descent ends at is not.
    if begin:
        ranges.append((begin, end))
    return Proof(tuple(reversed(ranges)))


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def stored(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """Node -> the kept nodes that it is made of."""
    found = {}
    for node in nodes:
        above = node.level % TILE_LEVELS
        first = node.place << above
        found[node] = [Node(node.level - above, first + offset) for offset in range(1 << above)]
    return found


class Growing:
    """The right edge of a tree: enough to append to it and to tell its root, whatever its size.

    Args:
        size: leaves so far.
        edge: per kept level, from the leaves up, the hashes after the last full tile; see ``edge_of``.
    """

    def __init__(self, size: int = 0, edge: Iterable[Iterable[bytes]] = ()) -> None:
        self.size = size
        self._edge = [list(hashes) for hashes in edge]

    def append(self, leaf: bytes) -> Iterator[tuple[Node, bytes]]:
        """Add one leaf; gives the kept nodes above the leaves that this makes full."""
        self.size += 1
        for kept in range(len(self._edge) + 1):
            if kept == len(self._edge):
                self._edge.append([])
            hashes = self._edge[kept]
            hashes.append(leaf)
            if len(hashes) < TILE:
                return
            leaf = full_root(hashes)
            hashes.clear()
            level = (kept + 1) * TILE_LEVELS
            yield Node(level, (self.size >> level) - 1), leaf

    def root(self) -> bytes:
        """The root of the tree as it is."""
        parts: list[bytes] = []
        for hashes in reversed(self._edge):
            begin = 0
            for node in subtrees(0, len(hashes)):
                parts.append(full_root(hashes[begin : begin + (1 << node.level)]))
                begin += 1 << node.level
        return fold(parts)


def edge_of(size: int) -> list[tuple[Node, int]]:
    """Per kept level of a tree the first node after the last full tile, and how many there are: what ``Growing`` begins with."""
    found = []
    level = 0
    while size >> level:
        count = (size >> level) % TILE
        found.append((Node(level, (size >> level) - count), count))
        level += TILE_LEVELS
    return found
