//! Fills a table of kernels for one instruction set.

/// Compiles the shared code for the target features of an instruction set and makes the table of it.
macro_rules! kernel_set {
    (
        $(#[$doc:meta])*
        $table:ident, $module:ident, $compiled:meta,
        simd = $simd:ident, int8 = $int8:ident, blocks = $blocks:ident, bf16 = $bf16:ident, f32 = $f32:ident,
        start = $start:literal, int8_bytes = $int8_bytes:literal, bf16_rows = $bf16_rows:literal
    ) => {
        $(#[$doc])*
        pub(crate) static $table: Kernels = Kernels {
            product: [$module::int8, $module::blocks, $module::bf16, $module::f32],
            quantise: [
                $module::quantise_int8,
                $module::quantise_blocks,
                $module::quantise_bf16,
                generic::copy_rows,
            ],
            attend: [$module::attend_bf16, $module::attend_f32, $module::attend_int8],
            pack_heads: [$module::pack_bf16, $module::pack_f32, $module::pack_int8],
            store_token: [$module::store_token_bf16, $module::store_token_f32],
            attend_tokens: [$module::attend_tokens_bf16, $module::attend_tokens_f32],
            layer_norm: $module::layer_norm,
            int8_bytes: $int8_bytes,
            bf16_bytes: if $bf16_rows { 2 } else { 4 },
        };

        mod $module {
            use super::*;

            #[$compiled]
            pub(super) unsafe fn int8(p: &Product) {
                generic::product_int8::<$simd, $int8>(p);
            }
            #[$compiled]
            pub(super) unsafe fn blocks(p: &Product) {
                generic::product_blocks::<$simd, $blocks>(p);
            }
            #[$compiled]
            pub(super) unsafe fn bf16(p: &Product) {
                generic::product_float::<$simd, $bf16>(p, 2);
            }
            #[$compiled]
            pub(super) unsafe fn f32(p: &Product) {
                generic::product_float::<$simd, $f32>(p, 1);
            }
            #[$compiled]
            pub(super) unsafe fn quantise_int8(q: &Quantise) {
                generic::quantise_int8::<$simd, $int8_bytes>(q, q.k, $start);
            }
            #[$compiled]
            pub(super) unsafe fn quantise_blocks(q: &Quantise) {
                generic::quantise_int8::<$simd, $int8_bytes>(q, crate::kernels::BLOCK, $start);
            }
            #[$compiled]
            pub(super) unsafe fn quantise_bf16(q: &Quantise) {
                if $bf16_rows { generic::quantise_bf16::<$simd>(q) } else { generic::copy_rows(q) }
            }
            #[$compiled]
            pub(super) unsafe fn attend_bf16(a: &Attend) {
                generic::attend::<$simd, $bf16, $bf16_rows>(a, 2);
            }
            #[$compiled]
            pub(super) unsafe fn attend_f32(a: &Attend) {
                generic::attend::<$simd, $f32, false>(a, 1);
            }
            #[$compiled]
            pub(super) unsafe fn attend_int8(a: &Attend) {
                narrow::attend::<$simd, $int8>(a, $start);
            }
            #[$compiled]
            pub(super) unsafe fn pack_int8(p: &PackHeads) {
                narrow::pack_heads::<$simd>(p);
            }
            #[$compiled]
            pub(super) unsafe fn pack_bf16(p: &PackHeads) {
                generic::pack_heads::<$simd, true>(p);
            }
            #[$compiled]
            pub(super) unsafe fn pack_f32(p: &PackHeads) {
                generic::pack_heads::<$simd, false>(p);
            }
            #[$compiled]
            pub(super) unsafe fn store_token_bf16(s: &StoreToken) {
                generic::store_token::<$simd, true>(s);
            }
            #[$compiled]
            pub(super) unsafe fn store_token_f32(s: &StoreToken) {
                generic::store_token::<$simd, false>(s);
            }
            #[$compiled]
            pub(super) unsafe fn attend_tokens_bf16(a: &AttendTokens) {
                generic::attend_tokens::<$simd, true>(a);
            }
            #[$compiled]
            pub(super) unsafe fn attend_tokens_f32(a: &AttendTokens) {
                generic::attend_tokens::<$simd, false>(a);
            }
            #[$compiled]
            pub(super) unsafe fn layer_norm(
                to: *mut f32,
                from: *const f32,
                weight: *const f32,
                bias: *const f32,
                k: usize,
            ) {
                generic::layer_norm::<$simd>(to, from, weight, bias, k);
            }
        }
    };
}
pub(crate) use kernel_set;
