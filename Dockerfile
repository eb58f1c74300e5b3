# Image of the feature service, for an NVIDIA GPU or, with --build-arg ONNXRUNTIME=onnxruntime, a CPU; EXTRAS=serve makes it small:
#   docker build -t gtsa-serve .
#   docker run -p 8000:8000 -v "$PWD/deploy:/models:ro" gtsa-serve /models/encoder.onnx
FROM python:3.12.11-slim-bookworm AS build
ARG ONNXRUNTIME=onnxruntime-gpu
# Without train the image holds no PyTorch, 5 GB less, and serves the features of ONNX files alone.
ARG EXTRAS=serve,train,openvino
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY gtsa_kit ./gtsa_kit
COPY tools ./tools
# constraints.txt also pins the packages of the tests, so pip uses it as constraints and installs only what the service needs.
RUN sed -e 's/ \\$//' -e '/^ *--hash/d' constraints.txt > pins.txt \
 && python -m venv /opt/gtsa \
 && /opt/gtsa/bin/pip install --no-cache-dir --constraint pins.txt ".[$EXTRAS]" \
 && /opt/gtsa/bin/pip uninstall --yes onnxruntime \
 && /opt/gtsa/bin/pip install --no-cache-dir --no-deps --constraint pins.txt "$ONNXRUNTIME"

FROM python:3.12.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin gtsa
COPY --from=build /opt/gtsa /opt/gtsa
ENV PATH=/opt/gtsa/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
# The exec form makes gtsa the process that receives the signals. The loopback address is not reachable from outside a container.
ENTRYPOINT ["gtsa", "serve", "--host", "0.0.0.0"]
