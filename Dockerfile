# The server for the processor.  docker build -t whisper-backend-api . && docker run -p 8000:8000 whisper-backend-api
# (or `docker compose up`, which also keeps the models on a volume.)

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# On x86-64 the program's own engine takes the best kernels of whatever processor it meets, so whisper.cpp stays out. On
# others whisper.cpp is compiled in, for any processor of the kind (GGML_NATIVE=OFF) unless the image is for one machine
# alone: `--build-arg GGML_NATIVE=ON`.
ARG GGML_NATIVE=OFF
ENV GGML_NATIVE=${GGML_NATIVE}
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked $([ "$(uname -m)" = x86_64 ] && echo --no-default-features) \
    && cp target/release/WhisperBackendAPI /usr/local/bin/

FROM debian:bookworm-slim
# libgomp1: threads of whisper.cpp, where it is in. curl: the health check. No Python: models come from the model hub
# (HF_ENDPOINT names a mirror) or from the volume.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 whisper \
    && install --directory --owner=whisper /app /app/models
COPY --from=build /usr/local/bin/WhisperBackendAPI /usr/local/bin/
COPY LICENSE THIRD-PARTY-NOTICES.txt /usr/share/doc/whisper-backend-api/
USER whisper
WORKDIR /app
VOLUME /app/models
ENV WHISPER_BACKEND__SERVER__HOST=0.0.0.0 WHISPER_BACKEND__SERVER__PORT=8000
EXPOSE 8000
# The first start fetches a model and may take minutes; /health answers 200 once a recording can be transcribed.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD curl --fail --silent --output /dev/null http://127.0.0.1:8000/health
ENTRYPOINT ["WhisperBackendAPI"]
CMD ["serve"]
