//! What a disk does to a file: for the tests of all that is kept.

/// `whole` with one bit turned over, for each of its bits, and every beginning of it that is not all of it.
pub(crate) fn damaged(whole: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    flipped.chain((0..whole.len()).map(|length| whole[..length].to_vec()))
}
