# The server in a container, for each way of computing:
#   docker build --target cpu|vulkan|cuda|rocm -t whisper-backend-api:cpu .
# `docker compose` chooses the target by its profile (docker-compose.yml). Without --target it is cpu.
#
# On x86-64 the program's own engine takes the best kernels of whatever processor it meets (AVX2, AVX-512, VNNI, AMX), and
# whisper.cpp, where it is in, is compiled for any processor of the kind: GGML_NATIVE=OFF. No Python at run time: models come
# from the model hub (HF_ENDPOINT names a mirror) or lie on the volume.

FROM rust:1-trixie AS source
# Strict shell: a build that fails inside a pipe or a substitution fails the image.
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV GGML_NATIVE=OFF

FROM source AS build-cpu
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=cpu \
    if [ "$(uname -m)" = x86_64 ]; then \
        cargo build --release --locked --no-default-features; \
    else \
        cargo build --release --locked; \
    fi \
    && install -D --strip target/release/WhisperBackendAPI /out/WhisperBackendAPI

FROM source AS build-vulkan
RUN apt-get update \
    && apt-get install --yes --no-install-recommends glslc libvulkan-dev \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=vulkan \
    cargo build --release --locked --features vulkan \
    && install -D --strip target/release/WhisperBackendAPI /out/WhisperBackendAPI

# ggml needs ROCm 6.1; Debian 13 has 5.7.
FROM rocm/dev-ubuntu-24.04:6.4.1-complete AS build-rocm
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=source /usr/local/rustup /usr/local/rustup
COPY --from=source /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/opt/rocm/bin:${PATH}
WORKDIR /src
COPY . .
# RDNA 2 and 3. A Radeon 780M (gfx1103) presents itself as gfx1100: HSA_OVERRIDE_GFX_VERSION=11.0.0 in docker-compose.yml.
ARG AMDGPU_TARGETS="gfx1030;gfx1100;gfx1101;gfx1102"
ENV GGML_NATIVE=OFF AMDGPU_TARGETS=${AMDGPU_TARGETS} HIP_PATH=/opt/rocm ROCM_PATH=/opt/rocm
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=rocm \
    cargo build --release --locked --features hipblas \
    && install -D --strip target/release/WhisperBackendAPI /out/WhisperBackendAPI

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
COPY --from=source /usr/local/rustup /usr/local/rustup
COPY --from=source /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:${PATH}
WORKDIR /src
COPY . .
# Every card since Turing (2018); fewer compile faster.
ARG CMAKE_CUDA_ARCHITECTURES="75;80;86;89;90;120"
ENV GGML_NATIVE=OFF CUDA_PATH=/usr/local/cuda CMAKE_CUDA_ARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES}
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=cuda \
    cargo build --release --locked --features cuda \
    && install -D --strip target/release/WhisperBackendAPI /out/WhisperBackendAPI

# cuBLAS is opened when it is needed; the driver comes from the host through the NVIDIA container toolkit.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl libcublas-13-0 libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 whisper \
    && install --directory --owner=whisper /app /app/models
COPY LICENSE THIRD-PARTY-NOTICES.txt /usr/share/doc/whisper-backend-api/
COPY --from=build-cuda /out/WhisperBackendAPI /usr/local/bin/
USER 10001
WORKDIR /app
VOLUME /app/models
ENV WHISPER_BACKEND__SERVER__HOST=0.0.0.0 WHISPER_BACKEND__SERVER__PORT=8000 NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/health/ready"]
ENTRYPOINT ["WhisperBackendAPI"]
CMD ["serve"]

# ROCm's own base: its libraries are those that the program was linked with.
FROM rocm/dev-ubuntu-24.04:6.4.1 AS rocm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl hipblas libgomp1 rocblas \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 whisper \
    && install --directory --owner=whisper /app /app/models
COPY LICENSE THIRD-PARTY-NOTICES.txt /usr/share/doc/whisper-backend-api/
COPY --from=build-rocm /out/WhisperBackendAPI /usr/local/bin/
USER 10001
WORKDIR /app
VOLUME /app/models
ENV WHISPER_BACKEND__SERVER__HOST=0.0.0.0 WHISPER_BACKEND__SERVER__PORT=8000 LD_LIBRARY_PATH=/opt/rocm/lib
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/health/ready"]
ENTRYPOINT ["WhisperBackendAPI"]
CMD ["serve"]

FROM debian:trixie-slim AS runtime
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 whisper \
    && install --directory --owner=whisper /app /app/models
COPY LICENSE THIRD-PARTY-NOTICES.txt /usr/share/doc/whisper-backend-api/
USER 10001
WORKDIR /app
VOLUME /app/models
ENV WHISPER_BACKEND__SERVER__HOST=0.0.0.0 WHISPER_BACKEND__SERVER__PORT=8000
EXPOSE 8000
# The first start fetches a model and may take minutes; /health says how far it is.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/health/ready"]
ENTRYPOINT ["WhisperBackendAPI"]
CMD ["serve"]

# Mesa's drivers for AMD and Intel cards, and for what WSL passes on (dzn).
FROM runtime AS vulkan
USER 0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/*
USER 10001
COPY --from=build-vulkan /out/WhisperBackendAPI /usr/local/bin/

FROM runtime AS cpu
COPY --from=build-cpu /out/WhisperBackendAPI /usr/local/bin/
