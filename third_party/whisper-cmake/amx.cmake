# Intel's matrix unit (AMX) for the small models' weights.
#
# ggml 0.9.5 sends a product to AMX only where the inner dimension is a multiple of 2,048; its own comment doubts that
# rule. `base` has 512 and 2,048, so two thirds of its encoder ran elsewhere. The kernels need no more than whole tiles
# of 32, which every quantised row has. With that, `base` q8_0 transcribes 1.4 times as fast (docs/performance.md).
# Two more changes concern 4-bit weights: the kernel unpacks the first tile of each second column from the wrong column,
# and unpacking in the inner loop costs more than it saves. q4_0 weights are packed as 8-bit numbers with the same
# scales instead: the very same products, at the speed of q8_0. And all threads quantise the other factor, not the first
# alone while the others wait.
#
# whisper-rs-sys copies the sources into its build folder before it runs CMake; the copy is changed here, the crate is
# not. Other sources than those known (a newer whisper.cpp) stay as they are, and the build says so.

set(AMX "${CMAKE_CURRENT_SOURCE_DIR}/src/ggml-cpu/amx")
file(READ "${AMX}/mmq.cpp" TEXT)
if(TEXT MATCHES "packed_as")
    return() # changed by an earlier run
endif()
file(SHA256 "${AMX}/amx.cpp" AMX_SHA256)
file(SHA256 "${AMX}/mmq.cpp" MMQ_SHA256)
if(NOT AMX_SHA256 STREQUAL "6c53c42869e059c4f7f964a036923d3724ac6d886e1456e565f8540c5e7d0f43"
   OR NOT MMQ_SHA256 STREQUAL "f97f1defda6780f5096e0266e970dcae4614ccd6e29b1c2b982c3259047b222c")
    message(WARNING "ggml's AMX sources are not those of 0.9.5: they stay as they are (third_party/whisper-cmake/amx.cmake)")
    return()
endif()

function(change FILE OLD NEW)
    file(READ "${FILE}" TEXT)
    string(REPLACE "${OLD}" "${NEW}" TEXT "${TEXT}")
    file(WRITE "${FILE}" "${TEXT}")
endfunction()

change("${AMX}/amx.cpp"
    "ne[0] % (TILE_K * 2 * 32) == 0"
    "ne[0] % (op->src[0]->type == GGML_TYPE_Q8_0 || op->src[0]->type == GGML_TYPE_Q4_0 ? TILE_K : TILE_K * 2 * 32) == 0")
change("${AMX}/mmq.cpp" "unpack_B<TB>(Tile1, B_blk0)" "unpack_B<TB>(Tile1, B_blk1)")
change("${AMX}/mmq.cpp"
    "// get the packed tensor size for quantized weights"
    "// what the weights of a type are packed as
static enum ggml_type packed_as(enum ggml_type type) {
    return type == GGML_TYPE_Q4_0 ? GGML_TYPE_Q8_0 : type;
}

// 4-bit numbers as 8-bit numbers with the same scales
static std::vector<block_q8_0> widened(const block_q4_0 * blocks, size_t count) {
    std::vector<block_q8_0> wide(count);
    for (size_t i = 0; i < count; ++i) {
        wide[i].d = blocks[i].d;
        for (int j = 0; j < QK4_0 / 2; ++j) {
            wide[i].qs[j] = (int8_t) ((blocks[i].qs[j] & 0x0F) - 8);
            wide[i].qs[j + QK4_0 / 2] = (int8_t) ((blocks[i].qs[j] >> 4) - 8);
        }
    }
    return wide;
}

// get the packed tensor size for quantized weights")
foreach(NAME IN ITEMS "tensor->type" "src0->type")
    change("${AMX}/mmq.cpp" "const enum ggml_type TYPE = ${NAME};" "const enum ggml_type TYPE = packed_as(${NAME});")
endforeach()
change("${AMX}/mmq.cpp"
    "    const int N = tensor->ne[1]; // ne1: out_features

    GGML_DISPATCH_QTYPES(TYPE, [&] {
        convert_B"
    "    const int N = tensor->ne[1]; // ne1: out_features

    std::vector<block_q8_0> wide;
    if (tensor->type == GGML_TYPE_Q4_0) {
        wide = widened((const block_q4_0 *) data, (size_t) N * K / QK4_0);
        data = wide.data();
    }
    GGML_DISPATCH_QTYPES(TYPE, [&] {
        convert_B")
change("${AMX}/mmq.cpp" "    if (params->ith == 0) {
        GGML_DISPATCH_QTYPES" "    {
        GGML_DISPATCH_QTYPES")
change("${AMX}/mmq.cpp"
    "for (int m = 0; m < M; ++m) {
                from_float"
    "for (int m = params->ith; m < M; m += params->nth) {
                from_float")
change("${AMX}/mmq.cpp" "#include <algorithm>" "#include <algorithm>
#include <vector>")
