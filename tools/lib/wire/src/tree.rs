//! The BLAKE3 tree over the tiles: its root binds the whole update, a proof binds some tiles to the root.

use crate::{
    layout::Layout,
    precision::Precision,
    tensors::Update,
    tile::{RELEASED, TILE, TILE_BYTES, le_bytes},
};
use bao_tree::{
    BaoTree, BlockSize, ByteRanges, ChunkNum, ChunkRanges,
    io::{BaoContentItem, round_up_to_chunks, sync::DecodeResponseIter},
    iter::BaoChunk,
};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rayon::prelude::*;
use record::{Hash, Report};

/// 16 KiB groups: 2⁴ chunks of 1 KiB.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);

/// The tree of one update.
pub struct Tree {
    /// Its root: the plain BLAKE3 hash of all tiles, one after another.
    pub root: Hash,
    /// The chaining values of all inner nodes above the groups, in pre-order, 64 bytes each.
    nodes: Vec<u8>,
    tiles: usize,
}

fn shape(tiles: usize) -> BaoTree {
    BaoTree::new((tiles * TILE_BYTES) as u64, GROUP)
}

fn ranges(tiles: &[usize]) -> ChunkRanges {
    let mut ranges = ChunkRanges::empty();
    for tile in tiles {
        let start = (tile * TILE_BYTES) as u64;
        ranges |= round_up_to_chunks(&ByteRanges::from(start..start + TILE_BYTES as u64));
    }
    ranges
}

/// The chaining value of one tile; `None` when the tile is all there is, and its hash is the root.
fn group(index: usize, tile: &[f32; TILE]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset((index * TILE_BYTES) as u64);
    hasher.update(&le_bytes(tile));
    hasher.finalize_non_root()
}

fn inner(groups: &[ChainingValue], nodes: &mut Vec<u8>) -> ChainingValue {
    if let [only] = groups {
        return *only;
    }
    let (left, right) = children(groups, nodes);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

fn children(groups: &[ChainingValue], nodes: &mut Vec<u8>) -> (ChainingValue, ChainingValue) {
    // A left subtree is the largest power of two that leaves something to the right. Source: BLAKE3 paper, 2.1.
    let (left, right) = groups.split_at(groups.len().next_power_of_two() / 2);
    let at = nodes.len();
    nodes.resize(at + 64, 0);
    let (left, right) = (inner(left, nodes), inner(right, nodes));
    nodes[at..at + 32].copy_from_slice(&left);
    nodes[at + 32..at + 64].copy_from_slice(&right);
    (left, right)
}

impl Tree {
    /// The tree over `tiles` tiles; `get` makes each, on any thread.
    ///
    /// # Errors
    /// What `get` returns, of the first such tile.
    pub fn build(
        tiles: usize,
        get: impl Fn(usize, &mut [f32; TILE]) -> Result<(), Report> + Sync,
    ) -> Result<Self, Report> {
        if tiles == 1 {
            let mut tile = [0f32; TILE];
            get(0, &mut tile)?;
            return Ok(Tree { root: blake3::hash(&le_bytes(&tile)).into(), nodes: Vec::new(), tiles });
        }
        let groups = (0..tiles)
            .into_par_iter()
            .with_min_len(16)
            .map(|index| {
                let mut tile = [0f32; TILE];
                get(index, &mut tile)?;
                Ok(group(index, &tile))
            })
            .collect::<Result<Vec<_>, Report>>()?;
        let mut nodes = Vec::with_capacity(64 * (tiles - 1));
        let (left, right) = children(&groups, &mut nodes);
        Ok(Tree { root: merge_subtrees_root(&left, &right, Mode::Hash).into(), nodes, tiles })
    }

    /// The tree of an update as its values will be sent.
    ///
    /// # Errors
    /// Exit code 65 at a value that is not finite, with its tensor.
    pub fn of_update(update: &Update, layout: &Layout, precision: Precision) -> Result<Self, Report> {
        let tensors = update.tensors(layout)?;
        Tree::build(layout.tiles, |index, tile| {
            let which = layout.tensor_of(index);
            let tensor = &layout.tensors[which];
            tensor.gather(index, tensors[which], tile);
            if index % RELEASED == RELEASED - 1 {
                update.release();
            }
            precision.quantise(tile);
            if tile.iter().all(|v| v.is_finite()) {
                return Ok(());
            }
            Err(Report::data(format!("the update is not finite in {}", tensor.name))
                .hint("lower inner.lr or set inner.clip; such an update cannot be committed to"))
        })
    }

    /// The proof that these tiles (ascending) are of this tree: the nodes that a reader of them needs, in pre-order.
    pub fn proof(&self, tiles: &[usize]) -> Vec<u8> {
        let tree = shape(self.tiles);
        let ranges = ranges(tiles);
        let mut proof = Vec::new();
        for chunk in tree.ranges_pre_order_chunks_iter_ref(&ranges, 0) {
            if let BaoChunk::Parent { node, .. } = chunk
                && let Some(offset) = tree.pre_order_offset(node)
            {
                let at = offset as usize * 64;
                proof.extend_from_slice(&self.nodes[at..at + 64]);
            }
        }
        proof
    }
}

/// Length of a proof in bytes: what [`verify`] will read, and not a byte more.
pub fn proof_len(total: usize, tiles: &[usize]) -> usize {
    let ranges = ranges(tiles);
    let parent = |chunk: &BaoChunk<_>| matches!(chunk, BaoChunk::Parent { .. });
    64 * shape(total).ranges_pre_order_chunks_iter_ref(&ranges, 0).filter(parent).count()
}

/// Check that tiles (ascending) are those of the tree with this root.
///
/// # Errors
/// Exit code 65 when they are not.
pub fn verify(
    root: Hash,
    total: usize,
    tiles: &[usize],
    proof: &[u8],
    get: impl Fn(usize, &mut [f32; TILE]),
) -> Result<(), Report> {
    let wrong = || Report::data("the proof does not lead to the root that was committed to");
    let (tree, ranges) = (shape(total), ranges(tiles));
    if proof.len() != proof_len(total, tiles) {
        return Err(wrong());
    }
    let mut parents = proof.chunks_exact(64);
    let (mut place, mut tile) = (0, [0f32; TILE]);
    let mut chunks = tree.ranges_pre_order_chunks_iter_ref(&ranges, 0);
    // A parent or a tile at a time, as they are asked for: no copy of all of them.
    let mut next = |piece: &mut Vec<u8>| {
        piece.clear();
        match chunks.next()? {
            BaoChunk::Parent { .. } => piece.extend_from_slice(parents.next()?),
            BaoChunk::Leaf { .. } => {
                get(place, &mut tile);
                place += 1;
                piece.extend_from_slice(&le_bytes(&tile));
            }
        }
        Some(())
    };
    let mut leaves = 0;
    let encoded = Pieces { next: &mut next, piece: Vec::with_capacity(TILE_BYTES), at: 0 };
    for item in DecodeResponseIter::new(blake3::Hash::from_bytes(root.0), tree, encoded, &ranges) {
        if let BaoContentItem::Leaf(leaf) = item.map_err(|_| wrong())? {
            leaves += leaf.data.len();
        }
    }
    if leaves == tiles.len() * TILE_BYTES { Ok(()) } else { Err(wrong()) }
}

/// Pieces that are made as they are read; there is nothing after the first that is not.
struct Pieces<F> {
    next: F,
    piece: Vec<u8>,
    at: usize,
}

impl<F: FnMut(&mut Vec<u8>) -> Option<()>> std::io::Read for Pieces<F> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() {
            self.at = 0;
            if (self.next)(&mut self.piece).is_none() {
                self.piece.clear();
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// A chunk of the tree is 1 KiB; a group of 16 is one tile.
const _: () = assert!(TILE_BYTES as u64 == 16 * 1024 && ChunkNum(16).to_bytes() == 16 * 1024);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tile_of(index: usize, tile: &mut [f32; TILE]) {
        tile.iter_mut().enumerate().for_each(|(i, v)| *v = (index * 31 + i) as f32);
    }

    fn tree_of(tiles: usize) -> Tree {
        Tree::build(tiles, |i, t| {
            tile_of(i, t);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn the_root_is_the_plain_blake3_hash_and_the_nodes_are_baos() {
        for tiles in [1, 2, 3, 4, 5, 7, 8, 9, 31, 33] {
            let mut all = Vec::new();
            for index in 0..tiles {
                let mut tile = [0f32; TILE];
                tile_of(index, &mut tile);
                all.extend_from_slice(&le_bytes(&tile));
            }
            let tree = tree_of(tiles);
            assert_eq!(tree.root, blake3::hash(&all).into(), "{tiles} tiles");
            let theirs = bao_tree::io::outboard::PreOrderMemOutboard::create(&all, GROUP);
            assert_eq!(tree.nodes, theirs.data, "{tiles} tiles");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_proof_holds_and_no_other_does(total in 1usize..40, pick in proptest::collection::btree_set(0usize..40, 1..20), flip: usize) {
            let picked: Vec<usize> = pick.into_iter().filter(|t| *t < total).collect();
            prop_assume!(!picked.is_empty());
            let tree = tree_of(total);
            let proof = tree.proof(&picked);
            let get = |place: usize, tile: &mut [f32; TILE]| tile_of(picked[place], tile);
            prop_assert!(verify(tree.root, total, &picked, &proof, get).is_ok());
            let other = |place: usize, tile: &mut [f32; TILE]| {
                tile_of(picked[place], tile);
                if place == flip % picked.len() { tile[flip % TILE] += 1.0; }
            };
            prop_assert!(verify(tree.root, total, &picked, &proof, other).is_err());
            prop_assert!(verify(Hash([7; 32]), total, &picked, &proof, get).is_err());
            if !proof.is_empty() {
                let mut bad = proof.clone();
                bad[flip % proof.len()] ^= 1;
                prop_assert!(verify(tree.root, total, &picked, &bad, get).is_err());
                prop_assert!(verify(tree.root, total, &picked, &proof[1..], get).is_err());
            }
        }
    }
}
