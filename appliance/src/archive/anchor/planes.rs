//! The bytes of mappings in the order of their significance.

/// Appends the bytes of the mappings: first the lowest byte of each, then the next one, up to the
/// highest.
pub(super) fn split(mappings: &[u64], planes: &mut Vec<u8>) {
    for plane in 0..8 {
        planes.extend(mappings.iter().filter_map(|mapping| mapping.to_le_bytes().get(plane).copied()));
    }
}

/// Appends the mappings of such bytes; a rest of fewer than eight planes is left out.
pub(super) fn join(planes: &[u8], mappings: &mut Vec<u64>) {
    let len = planes.len() / 8;
    let mut rest = planes;
    let mut next = || {
        let (plane, after) = rest.split_at_checked(len).unwrap_or_default();
        rest = after;
        plane.iter()
    };
    let low = next().zip(next()).zip(next().zip(next()));
    let high = next().zip(next()).zip(next().zip(next()));
    mappings
        .extend(low.zip(high).map(|(((a, b), (c, d)), ((e, f), (g, h)))| {
            u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])
        }));
}
