# How the processor's copy of the weights is laid out in memory.
#
# **AMX.** ggml 0.9.5 sends a product to Intel's matrix unit only where the inner dimension is a multiple of 2,048; its own
# comment doubts that rule. `base` has 512 and 2,048, so two thirds of its encoder ran elsewhere. The kernels need no more than
# whole tiles of 32, which every quantised row has. Two more changes concern 4-bit weights: the kernel unpacks the first tile of
# each second column from the wrong column, and unpacking in the inner loop costs more than it saves. q4_0 weights are packed as
# 8-bit numbers with the same scales instead: the very same products, at the speed of q8_0. And all threads quantise the other
# factor, not the first alone while the others wait.
#
# **Token embedding.** It is read twice: by rows for the input, and whole for the logits after each token, which is half of all a
# decoder step of `base` reads. Only plain memory can be read by rows, so ggml leaves it there. Here whole tiles of it are
# kept a second time in the layout that products are fastest in (AMX, or the repacked rows of q4_0), and the few rows left over
# are taken from the first copy.
#
# What both bring stands in docs/performance.md. whisper-rs-sys copies the sources into its build folder before it runs
# CMake; the copy is changed here, the crate is not. Other sources than those known (a newer whisper.cpp) stay as they are,
# and the build says so.

set(AMX "${CMAKE_CURRENT_SOURCE_DIR}/src/ggml-cpu/amx")
set(WHISPER "${CMAKE_CURRENT_SOURCE_DIR}/../src/whisper.cpp")
file(READ "${WHISPER}" TEXT)
if(TEXT MATCHES "d_te_tiles")
    return() # changed by an earlier run
endif()
foreach(KNOWN IN ITEMS
        "${AMX}/amx.cpp=6c53c42869e059c4f7f964a036923d3724ac6d886e1456e565f8540c5e7d0f43"
        "${AMX}/mmq.cpp=f97f1defda6780f5096e0266e970dcae4614ccd6e29b1c2b982c3259047b222c"
        "${WHISPER}=d1e041704c12e20b8eb9596632db3b3b31046348dbb0e493f8a5ab8edd5f4376")
    string(REGEX MATCH "^(.*)=([0-9a-f]+)$" KNOWN "${KNOWN}")
    file(SHA256 "${CMAKE_MATCH_1}" SUM)
    if(NOT SUM STREQUAL CMAKE_MATCH_2)
        message(WARNING "${CMAKE_MATCH_1} is not that of whisper.cpp 1.8.3: the layout of weights stays as it is (third_party/whisper-cmake/weights.cmake)")
        return()
    endif()
endforeach()

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

change("${WHISPER}"
    "    struct ggml_tensor * d_te;
"
    "    struct ggml_tensor * d_te;

    // whole tiles of the same, as products are fastest; absent where plain memory is as fast
    struct ggml_tensor * d_te_tiles = nullptr;
")
change("${WHISPER}"
    "const size_t n_tensors = 10 /* input */ + 15 +"
    "const size_t n_tensors = 10 /* input */ + 1 /* d_te_tiles */ + 15 +")
change("${WHISPER}"
    "ggml_new_tensor_2d(ctx, wtype, n_text_state, n_vocab));
"
    "ggml_new_tensor_2d(ctx, wtype, n_text_state, n_vocab));
        {
            ggml_tensor * tiles = ggml_new_tensor_2d(ctx, wtype, n_text_state, n_vocab - n_vocab % 64);
            ggml_backend_buffer_type_t buft = select_weight_buft(hparams, tiles, GGML_OP_MUL_MAT, buft_list);
            if (buft && buft != ggml_backend_cpu_buffer_type() &&
                ggml_backend_dev_type(ggml_backend_buft_get_device(buft)) == GGML_BACKEND_DEVICE_TYPE_CPU) {
                model.d_te_tiles = ggml_dup_tensor(get_ctx(buft), tiles);
            }
        }
")
change("${WHISPER}"
    "    wctx.t_load_us = ggml_time_us() - t_start_us;"
    "    if (model.d_te_tiles) {
        ggml_backend_tensor_set(model.d_te_tiles, model.d_te->data, 0, ggml_nbytes(model.d_te_tiles));
    }

    wctx.t_load_us = ggml_time_us() - t_start_us;")
change("${WHISPER}"
    "    struct ggml_tensor * logits = ggml_mul_mat(ctx0, model.d_te, cur);"
    "    struct ggml_tensor * logits;
    if (model.d_te_tiles) {
        const int64_t n_rows = model.d_te_tiles->ne[1];
        struct ggml_tensor * rest = ggml_view_2d(ctx0, model.d_te,
                model.d_te->ne[0], model.d_te->ne[1] - n_rows, model.d_te->nb[1], n_rows*model.d_te->nb[1]);
        logits = ggml_concat(ctx0, ggml_mul_mat(ctx0, model.d_te_tiles, cur), ggml_mul_mat(ctx0, rest, cur), 0);
    } else {
        logits = ggml_mul_mat(ctx0, model.d_te, cur);
    }")
