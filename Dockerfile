# The wheel and the tested versions of its dependencies, for a CPU or, with TORCH=cuda, for CUDA.
#
#     docker build --tag mtrl-fairgrad .
#     docker build --tag mtrl-fairgrad:cuda --build-arg TORCH=cuda .
#     docker run --rm --volume "$PWD/runs:/app/runs" mtrl-fairgrad train preset=quick
#     docker run --rm --gpus all --volume "$PWD/runs:/app/runs" mtrl-fairgrad:cuda train preset=fast
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ARG EXTRAS=rl,video
# EGL renders videos. Triton compiles its launchers with a C compiler, on GPUs only. PyTorch's wheels
# bring CUDA's libraries, so that the host needs its driver and the NVIDIA container toolkit alone.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libegl1 libgl1 \
        $(test "$TORCH" = cpu || echo "gcc libc6-dev") \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/
COPY --from=wheel /wheels /tmp/wheels
RUN if test "$TORCH" = cpu; then \
        export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; \
    fi \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt \
        "$(echo /tmp/wheels/*.whl)[$EXTRAS]" \
    && rm -rf /tmp/wheels /tmp/constraints.txt
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
RUN useradd --create-home --uid 1000 user && install --directory --owner user /app /app/runs
USER user
WORKDIR /app
VOLUME /app/runs
ENTRYPOINT ["mtrl-fairgrad"]
CMD ["--help"]
