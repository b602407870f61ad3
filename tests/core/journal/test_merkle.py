"""The tree is the one of RFC 6962, and every proof from it convinces the offline verifier, which shares no code with it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearspan.journal import merkle, verifier
from clearspan.journal.merkle import Growing, Node

SIZES = 130

# certificate-transparency-go and transparency-dev/merkle, testonly/constants.go (2026-11): inputs, and the root of the first n.
INPUTS = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


class World(NamedTuple):
    """A tree of ``SIZES`` leaves: what is kept of it, and its roots by the definition in the RFC."""

    leaves: list[bytes]
    kept: dict[Node, bytes]
    roots: list[bytes]

    def proof(self, proof: merkle.Proof) -> list[bytes]:
        """From what is kept alone."""
        parts = merkle.stored(proof.nodes)
        return proof.hashes({node: merkle.full_root([self.kept[one] for one in of]) for node, of in parts.items()})


def root_of(leaves: list[bytes]) -> bytes:
    """MTH, literally."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:half]) + root_of(leaves[half:])).digest()


@pytest.fixture(scope="module")
def world() -> World:
    """See ``World``."""
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(SIZES)]
    tree, kept = Growing(), {}
    for place, leaf in enumerate(leaves):
        kept[Node(0, place)] = leaf
        kept.update(tree.append(leaf))
    return World(leaves, kept, [root_of(leaves[:size]) for size in range(SIZES + 1)])


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_certificate_transparency(size: int) -> None:
    tree = Growing()
    for entry in INPUTS[:size]:
        list(tree.append(merkle.leaf_hash(entry)))
    assert tree.root().hex() == ROOTS[size]


def test_a_tree_can_be_taken_up_at_every_size(world: World) -> None:
    for size in range(SIZES):
        edge = [
            [world.kept[Node(first.level, first.place + more)] for more in range(count)]
            for first, count in merkle.edge_of(size)
        ]
        tree = Growing(size, edge)
        assert tree.root() == world.roots[size]
        above = dict(tree.append(world.leaves[size]))
        assert tree.root() == world.roots[size + 1]
        assert all(world.kept[node] == value for node, value in above.items())


def test_one_hash_in_sixteen_is_kept_above_the_leaves(world: World) -> None:
    assert len(world.kept) == SIZES + SIZES // 16
    assert {node.level for node in world.kept} == {0, 4}


def test_every_leaf_of_every_tree_is_proven_and_no_other_is(world: World) -> None:
    for size in range(1, SIZES + 1):
        for index in range(size):
            proof = world.proof(merkle.inclusion(index, size))
            assert len(proof) <= (size - 1).bit_length()
            assert verifier.includes(world.leaves[index], index, size, proof, world.roots[size])
            assert not verifier.includes(world.leaves[index - 1], index, size, proof, world.roots[size]) or size == 1


def test_every_tree_is_proven_to_begin_with_every_smaller_one(world: World) -> None:
    for new in range(SIZES + 1):
        for old in range(new + 1):
            proof = world.proof(merkle.consistency(old, new))
            assert len(proof) <= new.bit_length() + 1
            assert verifier.extends(old, new, proof, world.roots[old], world.roots[new])
            if old:
                assert not verifier.extends(old, new, proof, world.roots[old - 1], world.roots[new])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_proof_proves_nothing(world: World, data: st.DataObject) -> None:
    size = data.draw(st.integers(2, SIZES))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))
    inclusion, consistency = world.proof(merkle.inclusion(index, size)), world.proof(merkle.consistency(old, size))
    roots = world.roots
    assert verifier.includes(world.leaves[index], index, size, inclusion, roots[size])
    for proof, holds in (
        (inclusion, lambda changed: verifier.includes(world.leaves[index], index, size, changed, roots[size])),
        (consistency, lambda changed: verifier.extends(old, size, changed, roots[old], roots[size])),
    ):
        place = data.draw(st.integers(0, len(proof) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(proof[place], "big") ^ (1 << bit)).to_bytes(32, "big")
        assert not holds([*proof[:place], flipped, *proof[place + 1 :]])
        assert not holds([*proof[:place], *proof[place + 1 :]])
        assert not holds([*proof[:place], proof[place], *proof[place:]])
        assert not holds([*proof, roots[1]])
        assert not holds([])
    another = data.draw(st.integers(0, SIZES - 1).filter(lambda one: one != index))
    assert not verifier.includes(world.leaves[index], another, size, inclusion, roots[size])
    assert not verifier.includes(world.leaves[index], index, size, inclusion, roots[size - 1])


def test_sizes_that_cannot_be_prove_nothing(world: World) -> None:
    leaf, root = world.leaves[0], world.roots[1]
    assert verifier.includes(leaf, 0, 1, [], root)
    for index, size in ((1, 1), (-1, 1), (0, 0), (0, -1)):
        assert not verifier.includes(leaf, index, size, [], root)
    # A proof ends at the root of the size that is claimed, and not at a subtree's.
    assert not verifier.includes(leaf, 0, 2, [], root)
    assert not verifier.includes(leaf, 0, 3, [world.leaves[1]], world.roots[2])
    assert not verifier.extends(1, 3, [world.leaves[1]], root, world.roots[2])
    assert not verifier.extends(2, 1, [], world.roots[2], root)
    assert not verifier.extends(-1, 1, [], root, root)
    assert not verifier.extends(0, 1, [], root, root), "the empty tree has a root of its own"
