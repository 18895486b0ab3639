//! What a tile is: a block of rows by one panel, in registers.

/// A product of a few rows with one panel of packed weights.
///
/// # Safety
///
/// As [`super::Kernels`]: `a` points to `rows` rows `stride` bytes apart, `w` to `words` times 32 words, `out` to `rows` rows
/// of 32 accumulators `out_stride` bytes apart.
pub(crate) trait Tile {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Bytes of one number of activations.
    const NUMBER: usize;

    unsafe fn run(
        rows: usize,
        a: *const u8,
        stride: usize,
        w: *const u32,
        words: usize,
        out: *mut u8,
        out_stride: usize,
    );
}

/// As [`Tile`], for `Int8Block64`: `words` counts blocks of 64, `scales` has 32 for each of them, and what is written are
/// scaled sums in `f32`.
pub(crate) trait BlockTile {
    const ROWS: usize;

    unsafe fn run(
        rows: usize,
        a: *const u8,
        stride: usize,
        w: *const u32,
        blocks: usize,
        scales: *const f32,
        out: *mut f32,
    );
}

/// Calls `$tile::<ROWS>` for the number of rows at hand.
macro_rules! by_rows {
    ($rows:expr, $tile:ident $arguments:tt, $($count:literal)*) => {
        match $rows {
            $($count => $tile::<$count> $arguments,)*
            _ => debug_assert!(false, "a tile of {} rows", $rows),
        }
    };
}
pub(crate) use by_rows;

/// Lines of assembler for one row, dropped from tiles that lack it: each line is its parts, one after the other.
macro_rules! row_lines {
    ($row:literal: $($($part:literal)+;)+) => {
        concat!(".if {rows} > ", $row, "\n", $($($part,)+ "\n",)+ ".endif\n")
    };
}
pub(crate) use row_lines;
